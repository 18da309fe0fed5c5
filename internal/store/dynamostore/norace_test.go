//go:build !race

package dynamostore_test

const watched = false
