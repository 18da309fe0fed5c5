package account

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTargetOf(t *testing.T) {
	for host, want := range map[string]Target{
		"abc123.execute-api.eu-west-1.amazonaws.com":         {Service: "execute-api", Region: "eu-west-1"},
		"abc123.execute-api.cn-north-1.amazonaws.com.cn":     {Service: "execute-api", Region: "cn-north-1"},
		"abc-vpce-1.execute-api.us-east-1.amazonaws.com:443": {Service: "execute-api", Region: "us-east-1"},
		"abc.lambda-url.us-east-2.on.aws":                    {Service: "lambda", Region: "us-east-2"},
		"example.com":                                        {},
		"127.0.0.1:8700":                                     {},
		"x.execute-api.us-east-1.amazonaws.com.evil.org":     {},
		"s3.us-east-1.amazonaws.com":                         {},
	} {
		got, ok := TargetOf(host)
		if want.Service != "" {
			want.Host = host
		}
		if got != want || ok != (want.Service != "") {
			t.Errorf("%s: %+v, %v; want %+v", host, got, ok, want)
		}
	}
}

// gateway serves h and returns a client whose requests to it are signed.
func gateway(t *testing.T, h http.HandlerFunc) (client *http.Client, base string) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: opened(t).Sign(http.DefaultTransport, Gateway(u.Host))}, srv.URL
}

func TestSignaturesVerify(t *testing.T) {
	configured(t, "", static...)
	client, base := gateway(t, func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		if !strings.Contains(auth, "Credential=AKID/") || !strings.Contains(auth, "/eu-west-1/execute-api/aws4_request") {
			t.Errorf("%s %s: %q", r.Method, r.URL, auth)
		}
		if r.Header.Get("X-Amz-Security-Token") != "TOKEN" {
			t.Error("the session's token is missing")
		}
		if err := verify(r, "SECRET"); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		if err := verify(r, "OTHER"); err == nil {
			t.Error("any secret verifies")
		}
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/promises?limit=3&machine=gpu&prefix=a%2Fb", ""},
		{"GET", "/prod/v1/promises/a.b:c%20d/artifacts/x%25y", ""},
		{"POST", "/v1/promises", `{"machine":"cpu"}`},
	} {
		var src io.Reader // of a kind that says no length
		if c.body != "" {
			src = io.MultiReader(strings.NewReader(c.body))
		}
		req, err := http.NewRequestWithContext(t.Context(), c.method, base+c.path, src)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Modulate-Parent", "a 1 ff")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != c.body || req.Header.Get("Authorization") != "" {
			t.Errorf("%s: sent %q, want %q; the caller's request has %v", c.path, got, c.body, req.Header)
		}
	}
}

// A presigned URL carries its own proof, and S3 refuses two.
func TestOnlyTheTargetIsSigned(t *testing.T) {
	configured(t, "", static...)
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if name == "Authorization" || strings.HasPrefix(name, "X-Amz-") {
				t.Errorf("%s reaches the bucket", name)
			}
		}
		io.WriteString(w, "content")
	}))
	defer bucket.Close()
	client, base := gateway(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, bucket.URL+"/key?X-Amz-Signature=1", http.StatusTemporaryRedirect)
	})
	resp, err := client.Get(base + "/v1/promises/a/artifacts/x")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, _ := io.ReadAll(resp.Body); string(got) != "content" {
		t.Errorf("got %q", got)
	}
}

// process is a profile whose credentials are what a file holds at the moment.
func process(t *testing.T) (configFile string, set func(key string, lasts time.Duration)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials.json")
	return "[default]\ncredential_process = cat " + path + "\n", func(key string, lasts time.Duration) {
		text := fmt.Sprintf(`{"Version":1,"AccessKeyId":%q,"SecretAccessKey":"S","SessionToken":"T"`, key)
		if lasts != 0 {
			text += fmt.Sprintf(`,"Expiration":%q`, time.Now().Add(lasts).UTC().Format(time.RFC3339))
		}
		if err := os.WriteFile(path, []byte(text+"}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCredentialsAreRenewed(t *testing.T) {
	for name, c := range map[string]struct {
		said   string
		header string
	}{
		"REST API": {`{"message":"The security token included in the request is expired"}`, "X-Amzn-Errortype: ExpiredTokenException"},
		"HTTP API": {`{"message":"Forbidden"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			profile, set := process(t)
			configured(t, profile)
			var keys []string
			client, base := gateway(t, func(w http.ResponseWriter, r *http.Request) {
				_, key, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
				key, _, _ = strings.Cut(key, "/")
				body, _ := io.ReadAll(r.Body)
				keys = append(keys, key+":"+string(body))
				if key == "OLD" && len(keys) > 1 {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(http.StatusForbidden)
					io.WriteString(w, c.said)
				}
			})
			set("OLD", 0)
			for _, key := range []string{"OLD", "NEW", "NEW"} {
				set(key, 0)
				resp, err := client.Post(base, "application/json", strings.NewReader("x"))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("status %d", resp.StatusCode)
				}
			}
			if got := strings.Join(keys, " "); got != "OLD:x OLD:x NEW:x NEW:x" {
				t.Errorf("keys %s, want one retry with the new one, and that one from then on", got)
			}
		})
	}
}

// Credentials that say when they expire are had anew before they do.
func TestCredentialsThatSayWhenTheyExpire(t *testing.T) {
	profile, set := process(t)
	configured(t, profile)
	var last string
	client, base := gateway(t, func(w http.ResponseWriter, r *http.Request) {
		last = r.Header.Get("Authorization")
	})
	set("OLD", -time.Second) // over by the next request
	for _, key := range []string{"OLD", "NEW"} {
		resp, err := client.Get(base)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if !strings.Contains(last, "Credential="+key) {
			t.Errorf("signed as %q, want %s", last, key)
		}
		set("NEW", time.Hour)
	}
}

func TestRefusals(t *testing.T) {
	away := "Date: " + time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	for name, c := range map[string]struct {
		header, body string
		kind         error
		text, hint   string
	}{
		"expired":     {"", `{"message":"The security token included in the request is expired"}`, ErrCredentials, "AWS does not take the credentials: The security", "aws sso login"},
		"not allowed": {"", `{"Message":"User: arn:x is not authorized to perform: execute-api:Invoke"}`, ErrDenied, "AWS denies access to the API: User: arn:x", "SubmitterPolicy"},
		"HTTP API":    {"", `{"message":"Forbidden"}`, ErrDenied, "AWS denies access to the API: Forbidden", "execute-api:Invoke"},
		"not JSON":    {"", "no", ErrDenied, "AWS denies access to the API: no", "execute-api:Invoke"},
		"clock":       {away, `{"message":"Signature expired: it is late"}`, errClock, "ahead of that of AWS", "chrony"},
	} {
		t.Run(name, func(t *testing.T) {
			configured(t, "", static...)
			calls := 0
			client, base := gateway(t, func(w http.ResponseWriter, r *http.Request) {
				calls++
				if name, value, ok := strings.Cut(c.header, ": "); ok {
					w.Header().Set(name, value)
				}
				w.WriteHeader(http.StatusForbidden)
				io.WriteString(w, c.body)
			})
			_, err := client.Get(base)
			wantTrouble(t, err, c.kind, c.text, c.hint)
			if calls != 1 {
				t.Errorf("%d requests with the same credentials", calls)
			}
		})
	}
}

func TestOurOwnRefusalIsAnAnswer(t *testing.T) {
	configured(t, "", static...)
	client, base := gateway(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
	})
	resp, err := client.Get(base)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestNothingIsSentWithoutCredentials(t *testing.T) {
	configured(t, "")
	client, base := gateway(t, func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") })
	_, err := client.Get(base)
	wantTrouble(t, err, ErrCredentials, "there are no AWS credentials", "AWS_PROFILE")
	if errors.Is(err, ErrDenied) {
		t.Error("it is two kinds of trouble")
	}
}

// Who has no way to the place that gives credentials may have one later.
func TestCredentialsOutOfReachAreNoTrouble(t *testing.T) {
	configured(t, "", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/")
	client, base := gateway(t, func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") })
	_, err := client.Get(base)
	var trouble *Trouble
	if err == nil || errors.As(err, &trouble) {
		t.Errorf("got %v, want an error that may pass", err)
	}
}
