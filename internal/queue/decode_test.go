package queue

import (
	"errors"
	"strings"
	"testing"

	"modulate/internal/promise"
)

func TestDecode(t *testing.T) {
	for body, want := range map[string]error{
		`{"v":1,"id":"a","version":0}`:                    nil,
		`{"v":1,"id":"P.1.x","version":7}`:                nil,
		`{"v":1,"id":"a","version":1,"later":"unknown"}`:  nil,
		`{"v":2,"id":"a","version":1}`:                    ErrNewer,
		`{"v":99}`:                                        ErrNewer,
		`{"v":0,"id":"a"}`:                                ErrGarbage,
		`{"id":"a"}`:                                      ErrGarbage,
		`{"v":1,"id":""}`:                                 ErrGarbage,
		`{"v":1,"id":"../etc/passwd"}`:                    ErrGarbage,
		`{"v":1,"id":"a\u0000"}`:                          ErrGarbage,
		`{"v":1,"id":"a","version":-1}`:                   ErrGarbage,
		`{"v":"1","id":"a"}`:                              ErrGarbage,
		`{"v":1,"id":"` + strings.Repeat("a", 901) + `"}`: ErrGarbage,
		`[]`:    ErrGarbage,
		``:      ErrGarbage,
		`hello`: ErrGarbage,
		`{"v":1,"id":"a","version":0}{"v":1,"id":"b"}`:        ErrGarbage,
		strings.Repeat(`[`, 20_000) + strings.Repeat(`]`, 20): ErrGarbage,
	} {
		if _, err := Decode([]byte(body)); !errors.Is(err, want) {
			t.Errorf("%.60s: got %v, want %v", body, err, want)
		}
	}
}

// FuzzDecode: whatever comes in a queue, the answer is a message, garbage or a
// newer version, and a message survives being sent again.
func FuzzDecode(f *testing.F) {
	f.Add(Encode("a", 0))
	f.Add(Encode("detached_P_1", 1<<63))
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := Decode(body)
		if err != nil {
			if errors.Is(err, ErrGarbage) == errors.Is(err, ErrNewer) {
				t.Fatalf("%v is neither or both", err)
			}
			return
		}
		if !promise.ValidStoredID(m.ID) || m.V != messageVersion {
			t.Fatalf("%q decoded as %+v", body, m)
		}
		again, err := Decode(Encode(m.ID, m.Version))
		if err != nil || again != m {
			t.Fatalf("%+v came back as %+v, %v", m, again, err)
		}
	})
}
