package local

import (
	"errors"
	"os"
	"testing"
)

func TestSecondServerIsRefusedAndNamed(t *testing.T) {
	dir := t.TempDir()
	if url, ok := FindServer(dir); ok {
		t.Fatalf("a server %q before there was one", url)
	}
	first, err := LockServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := FindServer(dir); ok {
		t.Error("a server that has not said where it is was found")
	}
	if err := first.Announce("http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	var held *Held
	if _, err := LockServer(dir); !errors.As(err, &held) || held.PID != os.Getpid() || held.URL != "http://127.0.0.1:1" {
		t.Errorf("the second server got %v", err)
	}
	if url, ok := FindServer(dir); !ok || url != "http://127.0.0.1:1" {
		t.Errorf("FindServer = %q, %v", url, ok)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if url, ok := FindServer(dir); ok {
		t.Errorf("a server %q that has gone was found", url)
	}
}
