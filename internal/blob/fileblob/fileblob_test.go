package fileblob_test

import (
	"testing"

	"modulate/internal/blob"
	"modulate/internal/blob/blobtest"
	"modulate/internal/blob/fileblob"
)

func TestBlobs(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Blobs { return open(t, t.TempDir()) })
}

func open(t testing.TB, dir string) *fileblob.Blobs {
	t.Helper()
	b, err := fileblob.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
