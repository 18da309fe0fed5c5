package store_test

import (
	"testing"

	"modulate/internal/store"
	"modulate/internal/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return store.NewMemory() })
}

// The comparison must hold between two of a kind before it says anything of
// two kinds.
func TestMemoryIsDeterministic(t *testing.T) {
	storetest.Compare(t, storetest.Random{Seed: 1, Operations: 2000}, store.NewMemory(), store.NewMemory())
}

func TestMemoryIsLinearizable(t *testing.T) {
	storetest.Linearizable(t, storetest.Load{Histories: 5, Clients: 8, Operations: 50, Seed: 1}, store.NewMemory())
}
