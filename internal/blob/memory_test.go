package blob_test

import (
	"testing"

	"modulate/internal/blob"
	"modulate/internal/blob/blobtest"
)

func TestMemory(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Blobs { return blob.NewMemory() })
}
