//go:build !linux

package runner_test

import "testing"

// loseRights does nothing: tests do not run as root here.
func loseRights(*testing.T) {}

// suites are the kinds of runners of this system.
var suites = map[string]suite{"exec": execSuite}

// keep does nothing: there are no keepers.
func keep() {}

// tests are those of the suite.
func (s suite) tests() map[string]func(*testing.T) { return s.portable() }
