package sandbox

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// etc are the files of the host's /etc that programs need and that tell
// nothing. Private keys lie beside some of them, so that no larger directory is
// here.
var etc = []string{
	"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "localtime", "timezone", "os-release", "debian_version",
	"system-release", "ssl/certs", "ssl/openssl.cnf", "pki/tls/certs", "pki/tls/openssl.cnf", "pki/ca-trust/extracted",
	"ca-certificates", "crypto-policies", "alternatives", "mime.types", "services", "protocols", "gai.conf", "host.conf",
	"locale.conf", "terminfo", "fonts", "magic", "OpenCL", "vulkan",
}

// A thing is what a sandbox's root shows at one place: something of the host,
// a text, a link, or an empty directory.
type thing struct {
	to       string // its path in the sandbox
	from     string // what of the host
	link     string // where it leads
	text     string
	writable bool // what is from the host
}

// things are all that a sandbox shows and does not have to itself, each after
// the directories above it. Bubblewrap would give those modes that only root
// can pass.
func (c Config) things(s Start) []thing {
	l := list{made: map[string]bool{"/": true, "/usr": true}}
	l.system(c)
	l.identity(s)
	for _, dir := range []string{"/proc", "/dev", ScratchDir, "/run"} {
		l.dir(dir)
	}
	l.put(thing{to: "/tmp", link: "job/tmp"})
	l.put(thing{to: "/var/tmp", link: "../job/tmp"})
	if s.Socket != "" {
		l.put(thing{to: SocketDir, from: s.Socket})
	}
	if c.CLI != "" {
		l.put(thing{to: BinDir + "/modulate", from: c.CLI})
	}
	for _, m := range c.Mounts {
		l.put(thing{to: m.Target, from: m.Source, writable: m.Writable})
	}
	return l.things
}

// A list is one of things that grows.
type list struct {
	things []thing
	made   map[string]bool // directories
}

func (l *list) put(t thing) {
	l.dir(path.Dir(t.to))
	l.things = append(l.things, t)
}

func (l *list) dir(p string) {
	if !l.made[p] && !within(p, "/usr") {
		l.made[p] = true
		l.put(thing{to: p})
	}
}

// system is what every program needs.
func (l *list) system(c Config) {
	l.put(thing{to: "/usr", from: "/usr"})
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if to, err := os.Readlink(dir); err == nil {
			l.put(thing{to: dir, link: to})
		} else if _, err := os.Stat(dir); err == nil {
			l.put(thing{to: dir, from: dir})
		}
	}
	for _, name := range etc {
		from := "/etc/" + name
		if _, err := os.Stat(from); err == nil {
			l.put(thing{to: from, from: from})
		}
	}
	if c.Egress { // it may be a link into /run
		if from, err := filepath.EvalSymlinks(resolvConf); err == nil {
			l.put(thing{to: resolvConf, from: from})
		}
	}
	for _, dir := range c.Prefixes {
		l.put(thing{to: dir, from: dir})
	}
}

// resolvConf is the file that names the host's name servers.
const resolvConf = "/etc/resolv.conf"

// identity is the files that say who is there.
func (l *list) identity(s Start) {
	uid, gid := s.UID, s.UID
	if s.UID == 0 {
		uid, gid = os.Getuid(), os.Getgid()
	}
	l.put(thing{to: "/etc/passwd", text: fmt.Sprintf("root:x:0:0:root:/:/bin/sh\njob:x:%d:%d:job:%s:/bin/sh\n", uid, gid, WorkDir)})
	l.put(thing{to: "/etc/group", text: fmt.Sprintf("root:x:0:\njob:x:%d:\n", gid)})
	l.put(thing{to: "/etc/hosts", text: "127.0.0.1 localhost modulate\n::1 localhost\n"})
}
