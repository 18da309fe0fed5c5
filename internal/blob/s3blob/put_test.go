package s3blob_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// zeros yields that many zero bytes, and cannot be read again.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func sumOf(t *testing.T, src io.Reader) promise.Hash {
	t.Helper()
	digest := sha256.New()
	if _, err := io.Copy(digest, src); err != nil {
		t.Fatal(err)
	}
	return promise.Hash(digest.Sum(nil))
}

const mib = 1 << 20

func TestALargeBlobIsNotHeldInMemory(t *testing.T) {
	b := open(t)
	const size = 40 * mib
	sum := sumOf(t, zeros(size))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := b.Put(t.Context(), "large", zeros(size), size, sum); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > size/4 {
		t.Errorf("putting %d bytes allocated %d", size, grown)
	}
	info, err := b.Stat(t.Context(), "large")
	if err != nil || info.Size != size || info.SHA256 != sum {
		t.Errorf("Stat = %+v, %v", info, err)
	}
}

// What is sent as it is read must not be there when it turns out to be
// something else.
func TestALargeBlobThatIsNotAsAnnounced(t *testing.T) {
	b := open(t)
	broken := errors.New("broken")
	const size = 3 * mib
	for name, c := range map[string]struct {
		src  io.Reader
		sum  promise.Hash
		want error
	}{
		"short":        {zeros(size - 1), promise.Hash{}, blob.ErrMismatch},
		"long":         {zeros(size + 1), promise.Hash{}, blob.ErrMismatch},
		"other":        {zeros(size), sumOf(t, zeros(1)), blob.ErrMismatch},
		"fails":        {io.MultiReader(zeros(size/2), fails{broken}), promise.Hash{}, broken},
		"fails at end": {io.MultiReader(zeros(size), fails{broken}), promise.Hash{}, broken},
		"as announced": {zeros(size), sumOf(t, zeros(size)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if err := b.Put(t.Context(), name, c.src, size, c.sum); !errors.Is(err, c.want) {
				t.Errorf("Put = %v, want %v", err, c.want)
			}
			_, err := b.Stat(t.Context(), name)
			if kept := err == nil; kept != (c.want == nil) {
				t.Errorf("kept: %v (%v)", kept, err)
			}
		})
	}
}

type fails struct{ err error }

func (f fails) Read([]byte) (int, error) { return 0, f.err }

func TestTheHashIsKept(t *testing.T) {
	b := open(t)
	sum := promise.Hash(sha256.Sum256([]byte("x")))
	if err := b.Put(t.Context(), "out/p/1/result", strings.NewReader("x"), 1, sum); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"put", "touched"} {
		if info, err := b.Stat(t.Context(), "out/p/1/result"); err != nil || info.SHA256 != sum {
			t.Errorf("%s, Stat = %+v, %v, want SHA-256 %s", when, info, err, sum)
		}
		if err := b.Touch(t.Context(), "out/p/1/result"); err != nil {
			t.Fatal(err)
		}
	}
}

// do sends a signed request as a client without rights would.
func do(t *testing.T, req *http.Request, body string) (*http.Response, string) {
	t.Helper()
	if req.Method == http.MethodPut {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(got)
}

func TestSigned(t *testing.T) {
	b := open(t)
	sum := promise.Hash(sha256.Sum256([]byte("hello")))
	info := blob.Info{Key: blob.ContentKey(sum), Size: 5, SHA256: sum}
	sign := func(method string) *http.Request {
		t.Helper()
		req, err := b.Sign(t.Context(), method, info)
		if err != nil {
			t.Fatal(err)
		}
		return req
	}

	put := sign(http.MethodPut)
	for name, want := range map[string]string{
		"Content-Length": "5", "X-Amz-Checksum-Sha256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
	} {
		if got := put.Header.Get(name); got != want {
			t.Errorf("the upload must be sent with %s %q, want %q", name, got, want)
		}
		if signed := put.URL.Query().Get("X-Amz-SignedHeaders"); !strings.Contains(signed, strings.ToLower(name)) {
			t.Errorf("signed are %s, without %s", signed, name)
		}
	}
	if put.ContentLength != 5 || put.URL.Query().Get("X-Amz-Expires") != "900" {
		t.Errorf("an upload of %d bytes to %s", put.ContentLength, put.URL)
	}
	if res, body := do(t, sign(http.MethodPut), "hellx"); res.StatusCode < 400 {
		t.Errorf("other content of the size: %s %s", res.Status, body)
	}
	if res, body := do(t, put, "hello"); res.StatusCode != http.StatusOK {
		t.Errorf("the upload: %s %s", res.Status, body)
	}
	if got, err := b.Stat(t.Context(), info.Key); err != nil || got.Size != 5 || got.SHA256 != sum {
		t.Errorf("uploaded, Stat = %+v, %v", got, err)
	}

	res, body := do(t, sign(http.MethodGet), "")
	if body != "hello" || res.Header.Get("Content-Disposition") != "attachment" {
		t.Errorf("the download: %s %v %q", res.Status, res.Header, body)
	}
	if _, err := b.Sign(t.Context(), http.MethodDelete, info); err == nil {
		t.Error("a DELETE was signed")
	}
}

func TestGetBeyondTheEndOfWhatIsMissing(t *testing.T) {
	if _, err := open(t).Get(t.Context(), "k", 5); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

// A blob that fits in memory is sent again when S3 is busy.
func TestASmallBlobIsSentAgain(t *testing.T) {
	busy, done := answer{503, xml("SlowDown", "Please reduce your request rate.")}, answer{200, ""}
	wire := &said{answers: []answer{busy, done}}
	if err := stub(t, wire).Put(t.Context(), "k", strings.NewReader("x"), 1, promise.Hash{}); err != nil {
		t.Error(err)
	}
	if want := [][]byte{[]byte("x"), []byte("x")}; len(wire.bodies) != 2 || !bytes.Equal(wire.bodies[1], want[1]) {
		t.Errorf("sent %q, want %q", wire.bodies, want)
	}
	wire = &said{answers: []answer{busy}}
	err := stub(t, wire).Put(t.Context(), "k", zeros(2*mib), 2*mib, promise.Hash{})
	if !errors.Is(err, blob.ErrThrottled) || !strings.Contains(err.Error(), "SlowDown") || len(wire.bodies) != 1 {
		t.Errorf("a large blob was sent %d times: %v", len(wire.bodies), err)
	}
}
