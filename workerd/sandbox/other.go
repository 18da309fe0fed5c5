//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// errLinux: sandboxes are made of what Linux has.
var errLinux = errors.New("there is no sandbox on this system, only on Linux")

// Command fails: see errLinux. So does all of this file that needs a sandbox.
func (Config) Command(Start) (*Command, error) { return nil, errLinux }

// A UID is never leased here.
type UID struct{ Number int }

func LeaseUID() (*UID, error) { return nil, errLinux }
func (*UID) Close() error     { return errLinux }

func Clone(_, _ int) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
func Enter(Limits) error                  { return errLinux }

// A Group is never opened here.
type Group struct{}

func OpenGroup(string, Limits) (*Group, error)                { return nil, errLinux }
func (*Group) Start(*syscall.SysProcAttr, func() error) error { return errLinux }
func (*Group) Kill() error                                    { return errLinux }
func (*Group) OOMKills() (int64, error)                       { return 0, errLinux }
func (*Group) CPU() (time.Duration, error)                    { return 0, errLinux }
func (*Group) Close() error                                   { return errLinux }
func SweepGroups() error                                      { return nil }

func Egress(context.Context) error { return errLinux }

// Probe finds that there is nothing.
func Probe() Report {
	none := Finding{Name: "sandbox", Text: errLinux.Error()}
	return Report{none, none, none, none}
}
