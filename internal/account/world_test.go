package account

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// configured gives the SDK this configuration and no other, whatever the
// machine has.
func configured(t *testing.T, configFile string, env ...string) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "") // restored at the end
			os.Unsetenv(name)
		}
	}
	home := t.TempDir()
	path := filepath.Join(home, "config")
	if err := os.WriteFile(path, []byte(configFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range append([]string{
		"HOME=" + home, "AWS_CONFIG_FILE=" + path, "AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(home, "credentials"),
		"AWS_EC2_METADATA_DISABLED=true", "AWS_REGION=eu-west-1", "AWS_MAX_ATTEMPTS=1",
	}, env...) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

// static is an environment that has credentials.
var static = []string{"AWS_ACCESS_KEY_ID=AKID", "AWS_SECRET_ACCESS_KEY=SECRET", "AWS_SESSION_TOKEN=TOKEN"}

func opened(t *testing.T) *Account {
	t.Helper()
	a, err := Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// answers serves whatever comes with one answer.
func answers(t *testing.T, status int, header, body string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for line := range strings.SplitSeq(header, "\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				w.Header().Set(name, value)
			}
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// verify computes the signature of a request anew, from AWS's description of
// Signature Version 4, and says what does not fit.
func verify(r *http.Request, secret string) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	fields := map[string]string{}
	for part := range strings.SplitSeq(strings.TrimPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 "), ", ") {
		name, value, _ := strings.Cut(part, "=")
		fields[name] = value
	}
	var headers strings.Builder
	for name := range strings.SplitSeq(fields["SignedHeaders"], ";") {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.TrimSpace(value))
	}
	path := strings.NewReplacer("%", "%25", ":", "%3A").Replace(r.URL.EscapedPath()) // encoded once more, but for S3
	canonical := strings.Join([]string{
		r.Method, path, r.URL.RawQuery, headers.String(), fields["SignedHeaders"], hexSum(body),
	}, "\n")
	_, scope, _ := strings.Cut(fields["Credential"], "/")
	text := strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), scope, hexSum([]byte(canonical))}, "\n")
	key := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	if want := hex.EncodeToString(mac(key, text)); fields["Signature"] != want {
		return fmt.Errorf("signature %q, want %q over\n%s", fields["Signature"], want, canonical)
	}
	return nil
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	io.WriteString(m, text)
	return m.Sum(nil)
}
