package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

// Scripts with egress share the host's network, where what they send is told
// by their uid. No rule for another user is made or changed.

// never are destinations that no script reaches: what is not on the internet
// (the IANA special-purpose registries), the cloud's own services among it
// (169.254.169.254, 169.254.170.2, fd00:ec2::254), and the same seen through
// translators.
var never = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
	"::/96", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "2002::/16", "fc00::/7", "fe80::/9", "ff00::/8",
	// NAT64 (RFC 6052) of the private ones above.
	"64:ff9b::/104", "64:ff9b::a00:0/104", "64:ff9b::6440:0/106", "64:ff9b::7f00:0/104", "64:ff9b::a9fe:0/112", "64:ff9b::ac10:0/108",
	"64:ff9b::c0a8:0/112", "64:ff9b::c612:0/111", "64:ff9b::e000:0/99",
}

// egressTable is the nftables table of these rules.
const egressTable = "modulate_egress"

// rules are the whole table, for nft -f: replaced at once, never missing in
// between. resolvers are reached on the port of DNS alone.
func rules(resolvers []netip.Addr) string {
	var v4, v6 []string
	for _, p := range never {
		if netip.MustParsePrefix(p).Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {}\ndelete table inet %[1]s\ntable inet %[1]s {\n", egressTable)
	b.WriteString("\tchain output {\n\t\ttype filter hook output priority -10; policy accept;\n")
	fmt.Fprintf(&b, "\t\tmeta skuid %d-%d jump job\n\t}\n\tchain job {\n", FirstUID, LastUID)
	for _, r := range resolvers {
		family := "ip"
		if r.Is6() {
			family = "ip6"
		}
		fmt.Fprintf(&b, "\t\t%s daddr %s meta l4proto { tcp, udp } th dport 53 accept\n", family, r)
	}
	fmt.Fprintf(&b, "\t\tip daddr { %s } goto refuse\n", strings.Join(v4, ", "))
	fmt.Fprintf(&b, "\t\tip6 daddr { %s } goto refuse\n", strings.Join(v6, ", "))
	b.WriteString("\t\tfib daddr type { local, broadcast, multicast, anycast } goto refuse\n\t}\n")
	// Without the reset, who connects tries again for a second.
	b.WriteString("\tchain refuse {\n\t\tmeta l4proto tcp reject with tcp reset\n\t\treject\n\t}\n}\n")
	return b.String()
}

// resolvers reads the addresses of a resolv.conf (resolv.conf(5)).
func resolvers(conf string) (all []netip.Addr) {
	for line := range strings.Lines(conf) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			all = append(all, a.Unmap().WithZone(""))
		}
	}
	return all
}

// Egress makes the rules for scripts that have the network, or makes them
// anew, for the resolvers that the host has now. Who empties the host's ruleset
// takes them away; the next sandbox that starts makes them again.
func Egress(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("egress: only root can keep scripts from private addresses: run as root, or leave sandbox.egress out")
	}
	conf, err := os.ReadFile(resolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("egress: %w", err)
	}
	return nft(ctx, rules(resolvers(string(conf))), "-f", "-")
}

// holdEgress makes the rules where they are not there. It comes before each
// sandbox that has the network.
func holdEgress() error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	if nft(ctx, "", "list", "chain", "inet", egressTable, "job") == nil {
		return nil
	}
	return Egress(ctx)
}

func nft(ctx context.Context, input string, args ...string) error {
	path, err := look("nft")
	if err != nil {
		return errors.New("egress: nft is missing: install nftables (apt-get install nftables, dnf install nftables)")
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("egress: nft %s: %w: %s", args[0], err, short(out))
	}
	return nil
}

// probeEgress asks the kernel to check the rules, and makes none.
func probeEgress(root bool) (string, error) {
	if !root {
		return "", errors.New("no network for scripts: only root can keep them from private addresses")
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	if err := nft(ctx, rules(nil), "--check", "-f", "-"); err != nil {
		return "", err
	}
	return "nftables tells scripts by their uid", nil
}
