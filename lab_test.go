package main

// Lab tests show what the program does on a network, and on a broken one.
//
// The network is real but private: a host is a Linux network namespace, a lan
// is a bridge in another one, and a cable is a veth pair between them. Cables
// are pulled by taking the bridge's port down, a lan is split by moving ports
// to a second bridge, packets are lost in nftables. Nothing is ever attached to
// the namespace that the tests run in. All of it needs root, ip and nft; where
// they are missing the tests say so and skip, but under CI=true they fail.
//
// Claims that mostly wait run in parallel, and those that wait long (for a
// silence to be noticed, for a freeze to end) all at the same time, in
// TestLabFaults. There, -short leaves them out, and with P2PCHAT_LAB=full the
// faults last as long as is promised for.

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A netns is a network namespace with its loopback up. It lives as long as
// the test.
type netns struct {
	t    testing.TB
	name string
}

// A lan is one Ethernet segment. A second bridge, "right", is the other side
// of a split.
type lan struct {
	netns
	ports int // ever made; numbers the next
}

// A host is a machine with any number of network cards, first none.
type host struct {
	netns
	cables []*cable
}

// A cable joins a card of a host to a port of a lan.
type cable struct {
	lan       *lan
	host      *host
	port, nic string
	mac, addr string // of the card; several addresses are separated by spaces
}

const labPrefix = "p2plab-" // then the pid of the test process, and a number

var namespaces atomic.Int64 // how many this process has made

// noLab says what the lab lacks, "" if nothing. It also clears away what test
// processes that died left behind.
var noLab = sync.OnceValue(func() string {
	if runtime.GOOS != "linux" {
		return "network namespaces are Linux's"
	}
	if os.Geteuid() != 0 {
		return "only root can make network namespaces"
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return tool + " is not installed"
		}
	}
	probe := fmt.Sprint(labPrefix, os.Getpid(), "-probe")
	if out, err := exec.Command("ip", "netns", "add", probe).CombinedOutput(); err != nil {
		return "ip netns add: " + strings.TrimSpace(string(out))
	}
	exec.Command("ip", "netns", "del", probe).Run()

	left, _ := filepath.Glob("/run/netns/" + labPrefix + "*")
	for _, path := range left {
		name := filepath.Base(path)
		maker, _, _ := strings.Cut(strings.TrimPrefix(name, labPrefix), "-")
		if _, err := os.Stat("/proc/" + maker); err == nil {
			continue
		}
		pids, _ := exec.Command("ip", "netns", "pids", name).Output()
		for s := range strings.FieldsSeq(string(pids)) {
			pid, _ := strconv.Atoi(s)
			if p, err := os.FindProcess(pid); err == nil && pid > 1 {
				p.Kill()
			}
		}
		exec.Command("ip", "netns", "del", name).Run()
	}
	return ""
})

// needLab skips the test where there can be no lab.
func needLab(t testing.TB) {
	t.Helper()
	why := noLab()
	if why != "" && os.Getenv("CI") == "true" {
		t.Fatalf("no lab: %s", why)
	}
	if why != "" {
		t.Skipf("no lab: %s", why)
	}
}

func newNetns(t testing.TB) netns {
	t.Helper()
	needLab(t)
	ns := netns{t, fmt.Sprint(labPrefix, os.Getpid(), "-", namespaces.Add(1))}
	output(t, "", "ip", "netns", "add", ns.name)
	t.Cleanup(func() { output(t, "", "ip", "netns", "del", ns.name) })
	ns.ip("link set lo up")
	return ns
}

func newLAN(t testing.TB) *lan {
	t.Helper()
	l := &lan{netns: newNetns(t)}
	l.ip("link add left type bridge forward_delay 0", "link set left up",
		"link add right type bridge forward_delay 0", "link set right up")
	return l
}

// newHost makes a host that has nothing but its loopback.
func newHost(t testing.TB) *host {
	t.Helper()
	return &host{netns: newNetns(t)}
}

// output runs a command that must succeed and returns what it printed.
func output(t testing.TB, input string, argv ...string) string {
	t.Helper()
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdin = strings.NewReader(input)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, input, out)
	}
	return string(out)
}

// ip runs commands of ip(8) in the namespace.
func (ns netns) ip(commands ...string) {
	ns.t.Helper()
	output(ns.t, strings.Join(commands, "\n")+"\n", "ip", "-n", ns.name, "-batch", "-")
}

// inside is the command line that runs argv in the namespace. As ip executes
// argv in its own place, the process id is the program's.
func (ns netns) inside(argv ...string) []string {
	return append([]string{"ip", "netns", "exec", ns.name}, argv...)
}

// drops makes what arrives over the network and matches the nft expression
// vanish, instead of what vanished before; "" is nothing.
func (ns netns) drops(match string) {
	ns.t.Helper()
	rules := "flush ruleset\n"
	if match != "" {
		rules += "table inet lab {\n chain in {\n  type filter hook input priority 0\n  iifname != \"lo\" " + match + " drop\n }\n}\n"
	}
	output(ns.t, rules, ns.inside("nft", "-f", "-")...)
}

// host makes a host with one card, of the given addresses, on the lan. Beside
// IPv4 addresses alone the card has a link-local one of IPv6, made by the system.
func (l *lan) host(addr string) *host {
	l.t.Helper()
	h := newHost(l.t)
	l.plug(h, addr)
	return h
}

// plug gives a host a new card that is cabled to the lan.
func (l *lan) plug(h *host, addr string) *cable {
	l.t.Helper()
	l.ports++
	c := &cable{
		lan: l, host: h,
		port: fmt.Sprint("port", l.ports), nic: fmt.Sprint("eth", len(h.cables)),
		mac: fmt.Sprintf("02:00:00:00:%02x:%02x", len(h.cables), l.ports), addr: addr,
	}
	h.cables = append(h.cables, c)
	c.insert()
	return c
}

// insert makes the card appear in its host, remove makes it vanish.
func (c *cable) insert() {
	c.lan.t.Helper()
	c.lan.ip(fmt.Sprintf("link add %s type veth peer name %s address %s netns %s", c.port, c.nic, c.mac, c.host.name),
		fmt.Sprintf("link set %s master left up", c.port))
	var commands []string
	for addr := range strings.FieldsSeq(c.addr) {
		if strings.Contains(addr, ":") { // used at once, without a look whether another host has it
			commands = append(commands, fmt.Sprintf("link set %s addrgenmode none", c.nic), fmt.Sprintf("addr add %s dev %s nodad", addr, c.nic))
		} else {
			commands = append(commands, fmt.Sprintf("addr add %s broadcast + dev %s", addr, c.nic))
		}
	}
	c.host.ip(append(commands, fmt.Sprintf("link set %s up", c.nic))...)
	if strings.Contains(c.addr, ":") { // the system looks for a carrier once a second
		routes := ""
		eventually(c.lan.t, slack(3*time.Second), func() string {
			routes = output(c.lan.t, "", "ip", "-n", c.host.name, "-6", "route", "show", "table", "local", "dev", c.nic)
			return "routes " + routes
		}, func() bool { return strings.Contains(routes, "ff00::/8") })
	}
}

func (c *cable) remove() { c.lan.t.Helper(); c.host.ip("link del " + c.nic) }

// withoutIPv6 makes the host one that has IPv4 alone.
func (h *host) withoutIPv6() *host {
	h.t.Helper()
	output(h.t, "", h.inside("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")...)
	return h
}

// split parts some hosts from the rest of the lan; no cable loses its link.
func (l *lan) split(hosts ...*host) { l.t.Helper(); l.move("right", hosts) }

// heal undoes split.
func (l *lan) heal(hosts ...*host) { l.t.Helper(); l.move("left", hosts) }

func (l *lan) move(bridge string, hosts []*host) {
	l.t.Helper()
	var commands []string
	for _, h := range hosts {
		for _, c := range h.cables {
			if c.lan == l {
				commands = append(commands, fmt.Sprintf("link set %s master %s", c.port, bridge))
			}
		}
	}
	l.ip(commands...)
}

// out pulls the cable, in puts it back; the host's card loses its link and
// keeps its address.
func (c *cable) out() { c.lan.t.Helper(); c.lan.ip("link set " + c.port + " down") }
func (c *cable) in()  { c.lan.t.Helper(); c.lan.ip("link set " + c.port + " up") }

// node starts p2pchat on the host.
func (h *host) node(name string, flags ...string) *proc {
	h.t.Helper()
	return h.nodeWith(name, flags)
}

func (h *host) nodeWith(name string, flags []string, setups ...setup) *proc {
	h.t.Helper()
	var p *proc
	h.t.Cleanup(func() { // runs when the program has ended
		if p != nil {
			p.keepsTo(labGrammar)
		}
	})
	argv := h.inside(append(append([]string{self(h.t)}, flags...), name)...)
	p = start(h.t, name, argv, setups...)
	return p
}

// up waits until the program says that it is there.
func (p *proc) up() *proc {
	p.t.Helper()
	p.complains(slack(5*time.Second), regexp.QuoteMeta(p.name))
	return p
}

// gate returns a setup by which programs wait before their first instruction,
// and what starts them all in the same instant.
func gate(t testing.TB) (wait setup, open func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gate")
	output(t, "", "mkfifo", path)
	wait = func(c *exec.Cmd) { // sh blocks until somebody opens the pipe for writing
		c.Args = slices.Insert(c.Args, len(netns{}.inside()), "sh", "-c", `: <"$0"; exec "$@"`, path)
	}
	return wait, func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		t.Cleanup(func() { f.Close() }) // open for those that come to it late
	}
}

// room starts one node on each host, named in turn, and waits until each has
// seen all the others.
func room(hosts []*host, names ...string) []*proc {
	var nodes []*proc
	for i, h := range hosts {
		nodes = append(nodes, h.node(names[i]))
	}
	for _, p := range nodes {
		p.seesCount(slack(3*time.Second), len(hosts)-1, ` \* .* joined$`)
	}
	return nodes
}

// connections counts the ends of established TCP connections on the host.
func (h *host) connections() int {
	h.t.Helper()
	n := 0
	for line := range strings.Lines(output(h.t, "", h.inside("cat", "/proc/net/tcp", "/proc/net/tcp6")...)) {
		const established = "01"
		if f := strings.Fields(line); len(f) > 3 && f[3] == established {
			n++
		}
	}
	return n
}

// connected waits until there are exactly so many ends of TCP connections on
// the hosts together.
func connected(within time.Duration, ends int, hosts ...*host) {
	t := hosts[0].t
	t.Helper()
	n := 0
	eventually(t, within, func() string {
		n = 0
		for _, h := range hosts {
			n += h.connections()
		}
		return fmt.Sprintf("%d ends of TCP connections, want %d", n, ends)
	}, func() bool { return n == ends })
}

// eventually asks again and again, for what has no transcript to wait on. look
// says what it saw.
func eventually(t testing.TB, within time.Duration, look func() string, good func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		saw := look()
		if good() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", saw, within)
		}
	}
}

// slack stretches a promise, as the machine may have other things to do, and more so
// where the race detector slows the program down; what is promised to the tick is held
// in bubbles. bulk shortens a flood.
func slack(d time.Duration) time.Duration {
	if raced() {
		return 6 * d
	}
	return 2 * d
}

func bulk(lines int) int {
	if raced() {
		return lines / 10
	}
	return lines
}

var raced = sync.OnceValue(func() bool {
	b, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(b.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
})

// lasting is how long a fault that lasts shall last.
func lasting(full, brief time.Duration) time.Duration {
	if os.Getenv("P2PCHAT_LAB") == "full" {
		return full
	}
	return brief
}

const ip6Pat = `[\da-f:]*:[\da-f]+(?:%[\w.-]+)?`

var (
	labGrammar = grammarOf(`(?:\d+\.\d+\.\d+\.\d+|` + ip6Pat + `|\[` + ip6Pat + `\])`)
	presenceRE = regexp.MustCompile(`^` + stampPat + ` \* .* (?:lost|left|is back)$`)
	observedRE = regexp.MustCompile(`^` + stampPat + ` \* .* (?:lost|is back|is now at .*)$`)
	addressRE  = regexp.MustCompile(`^(` + stampPat + ` (?:\* )?` + namePat + `)(?:@\[?[\da-f.:]*[\da-f](?:%[\w.-]+)?(?:\]:\d+)?\??| \(me\))`)
)

// message takes a line apart that shows a message to everybody.
func message(line string) (name, text string, ok bool) {
	if len(line) < 20 || strings.HasPrefix(line[20:], "* ") {
		return "", "", false
	}
	who, text, ok := strings.Cut(line[20:], ": ")
	i := strings.IndexAny(who, "@(")
	if !ok || i < 0 || strings.Contains(who, " -> ") {
		return "", "", false
	}
	return strings.TrimSpace(who[:i]), text, true
}

// said returns the messages among lines, in order, by author.
func said(lines []string) map[string][]string {
	texts := map[string][]string{}
	for _, l := range lines {
		if name, text, ok := message(l); ok {
			texts[name] = append(texts[name], text)
		}
	}
	return texts
}

// spoken returns the messages among lines, in order, as "name: text".
func spoken(lines []string) (texts []string) {
	for _, l := range lines {
		if name, text, ok := message(l); ok {
			texts = append(texts, name+": "+text)
		}
	}
	return texts
}

// holds waits until a node has printed just these messages: each once, and those
// of one author in the order in which he said them.
func (p *proc) holds(want map[string][]string) {
	p.t.Helper()
	missing := ""
	eventually(p.t, slack(3*time.Second), func() string {
		missing = p.differs(want)
		return missing
	}, func() bool { return missing == "" })
}

// differs says in what the messages that a node printed are not those, "" if they are.
func (p *proc) differs(want map[string][]string) string {
	got := said(p.out.lines())
	for name := range got {
		if want[name] == nil {
			return fmt.Sprintf("%s: shows %d messages of %s, who said nothing", p.name, len(got[name]), name)
		}
	}
	for name, texts := range want {
		if d := difference(got[name], texts); d != "" {
			return fmt.Sprintf("%s: messages of %s: %s", p.name, name, d)
		}
	}
	return ""
}

// difference says where two lists part, "" if they don't.
func difference(got, want []string) string {
	if slices.Equal(got, want) {
		return ""
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	at := func(s []string) string {
		if i < len(s) {
			return strconv.Quote(s[i])
		}
		return "nothing"
	}
	return fmt.Sprintf("%d lines, want %d; line %d is %s, want %s", len(got), len(want), i+1, at(got), at(want))
}

// sameHistory waits until /history is the same on all nodes. Who was lost is
// what each observed for itself, and the address is how each reached him.
func sameHistory(within time.Duration, nodes ...*proc) {
	t := nodes[0].t
	t.Helper()
	common := func(p *proc) []string {
		var events []string
		for _, l := range p.history(slack(10 * time.Second)) {
			if !observedRE.MatchString(l) {
				events = append(events, addressRE.ReplaceAllString(l, "$1"))
			}
		}
		return events
	}
	diff := ""
	eventually(t, within, func() string {
		want := common(nodes[0])
		for _, p := range nodes[1:] {
			if d := difference(common(p), want); d != "" {
				diff = d
				return fmt.Sprintf("/history of %s, against that of %s: %s", p.name, nodes[0].name, d)
			}
		}
		diff = ""
		return ""
	}, func() bool { return diff == "" })
}

// undisturbed checks that no node saw another leave, vanish or return.
func undisturbed(nodes ...*proc) {
	nodes[0].t.Helper()
	for _, p := range nodes {
		for _, l := range p.out.lines() {
			if presenceRE.MatchString(l) {
				p.t.Errorf("%s: shows %q", p.name, l)
			}
		}
	}
}

// numbered makes n lines that are told apart by their number.
func numbered(name string, n int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("%s counts %06d, and takes his time over it", name, i+1)
	}
	return lines
}

// pour types lines without waiting for the program to take them.
func (p *proc) pour(lines []string) {
	go io.WriteString(p.in, strings.Join(lines, "\n")+"\n") // ends with the program at the latest
}

// A room that works on a real network.

func TestLabTwoHostsMeetTalkAndPart(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.host("10.9.0.1/24"), l.host("10.9.0.2/24")
	alex := a.node("Alex").up()
	tim := b.node("Tim").up()
	alex.sees(slack(time.Second), ` \* Tim@10.9.0.2 joined$`)
	tim.sees(slack(time.Second), ` \* Alex@10.9.0.1 joined$`)
	alex.say("Hello, Tim")
	tim.sees(slack(time.Second), ` Alex@10.9.0.1: Hello, Tim$`)
	tim.say("hi Alex")
	alex.sees(slack(time.Second), ` Tim@10.9.0.2: hi Alex$`)
	tim.say("@Alex just for you")
	alex.sees(slack(time.Second), ` Tim@10.9.0.2 -> me: just for you$`)
	tim.sees(slack(time.Second), ` Tim \(me\) -> Alex@10.9.0.1: just for you$`)
	tim.say("/exit")
	ends(tim, slack(time.Second), 0)
	alex.sees(slack(time.Second), ` \* Tim@10.9.0.2 left$`)

	if got, want := alex.screen(), []string{"* Tim@10.9.0.2 joined", "Alex (me): Hello, Tim", "Tim@10.9.0.2: hi Alex",
		"Tim@10.9.0.2 -> me: just for you", "* Tim@10.9.0.2 left"}; !slices.Equal(got, want) {
		t.Errorf("Alex shows %q, want %q", got, want)
	}
	if got, want := tim.screen(), []string{"* Alex@10.9.0.1 joined", "Alex@10.9.0.1: Hello, Tim", "Tim (me): hi Alex",
		"Tim (me) -> Alex@10.9.0.1: just for you"}; !slices.Equal(got, want) {
		t.Errorf("Tim shows %q, want %q", got, want)
	}

	tim = b.node("Tim").up()
	alex.seesCount(slack(time.Second), 2, ` \* Tim@10.9.0.2 joined$`)
	tim.signal(syscall.SIGTERM)
	alex.seesCount(slack(time.Second), 2, ` \* Tim@10.9.0.2 left$`)
	ends(tim, slack(time.Second), 0)

	tim = b.node("Tim").up()
	alex.seesCount(slack(time.Second), 3, ` \* Tim@10.9.0.2 joined$`)
	must(t, tim.cmd.Process.Kill())
	alex.sees(slack(time.Second), ` \* Tim@10.9.0.2 lost$`)
	if n := alex.count(` left$`); n != 2 {
		t.Errorf("Alex saw %d leave, want 2", n)
	}
}

func TestLabNodesOfOneHostMeetOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		make func(t *testing.T) *host
	}{
		{"loopback alone", func(t *testing.T) *host { return newHost(t) }},
		{"with a LAN", func(t *testing.T) *host { return newLAN(t).host("10.9.0.1/24") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := c.make(t)
			nodes := []*proc{h.node("Ann"), h.node("Bob"), h.node("Cid")}
			for _, p := range nodes {
				p.seesCount(slack(2*time.Second), 2, ` joined$`)
			}
			connected(slack(2*time.Second), 2*3, h)
			time.Sleep(1200 * time.Millisecond) // the beacon after a second makes nothing worse
			for i, p := range nodes {
				for j, q := range nodes {
					if i != j && p.count(` \* `+q.name+`@\S+ joined$`) != 1 {
						t.Errorf("%s doesn't show once that %s joined", p.name, q.name)
					}
				}
			}
			connected(slack(time.Second), 2*3, h)
			undisturbed(nodes...)
		})
	}
}

func TestLabHostsMeetInTheSameInstant(t *testing.T) {
	n := 20
	if raced() {
		n = 12 // each handshake and each signature takes a multiple of the time
	}
	l := newLAN(t)
	wait, open := gate(t)
	var hosts []*host
	var nodes []*proc
	for i := range n {
		h := l.host(fmt.Sprintf("10.9.0.%d/24", i+1))
		hosts = append(hosts, h)
		nodes = append(nodes, h.nodeWith(fmt.Sprintf("Node%02d", i+1), nil, wait))
	}
	open()

	began := time.Now()
	for _, p := range nodes {
		p.seesCount(slack(3*time.Second)-time.Since(began), n-1, ` joined$`)
	}
	t.Logf("all had met after %v", time.Since(began))
	connected(slack(3*time.Second), n*(n-1), hosts...)
	time.Sleep(time.Second) // what would come apart does so now
	connected(slack(3*time.Second), n*(n-1), hosts...)
	for i, p := range nodes {
		var want []string
		for j := range nodes {
			if i != j {
				want = append(want, fmt.Sprintf("* Node%02d@10.9.0.%d joined", j+1, j+1))
			}
		}
		got := p.screen()
		slices.Sort(got)
		if d := difference(got, want); d != "" {
			t.Errorf("%s: %s", p.name, d)
		}
	}
}

// What two nodes that start together see of each other doesn't depend on
// which of them gets how far first.
func TestLabPairsMeetInTheSameInstant(t *testing.T) {
	const pairs = 12
	wait, open := gate(t)
	var nodes []*proc
	for range pairs {
		l := newLAN(t)
		nodes = append(nodes, l.host("10.9.0.1/24").nodeWith("Ann", nil, wait), l.host("10.9.0.2/24").nodeWith("Bob", nil, wait))
	}
	open()
	began := time.Now()
	for _, p := range nodes {
		p.sees(slack(2500*time.Millisecond)-time.Since(began), ` joined$`)
	}
	t.Logf("all had met after %v", time.Since(began))
	for i, p := range nodes {
		if got, want := p.screen(), []string{"* Bob@10.9.0.2 joined", "* Ann@10.9.0.1 joined"}[i%2]; len(got) != 1 || got[0] != want {
			t.Errorf("%s shows %q, want %q", p.name, got, want)
		}
	}
}

func TestLabLostFirstPacketsOnlyDelay(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.host("10.9.0.1/24"), l.host("10.9.0.2/24")
	a.drops("meta l4proto udp")
	b.drops("meta l4proto udp")
	began := time.Now()
	alex, tim := a.node("Alex"), b.node("Tim")
	time.Sleep(1500 * time.Millisecond) // the fault
	if alex.count(` joined$`) > 0 {
		t.Fatal("they met while no beacon got through: the lab is broken")
	}
	a.drops("")
	b.drops("")
	alex.sees(slack(4*time.Second)-time.Since(began), ` \* Tim@10.9.0.2 joined$`)
	tim.sees(slack(4*time.Second)-time.Since(began), ` \* Alex@10.9.0.1 joined$`)
	t.Logf("met after %v", time.Since(began))
}

func TestLabHostOfTwoNetworksIsFoundOnBoth(t *testing.T) {
	t.Parallel()
	west, east := newLAN(t), newLAN(t)
	a, c := west.host("10.9.1.1/24"), east.host("10.9.2.3/24")
	b := west.host("10.9.1.2/24")
	east.plug(b, "10.9.2.2/24")
	ann, cid := a.node("Ann").up(), c.node("Cid").up()
	bob := b.node("Bob").up()
	began := time.Now()
	ann.sees(slack(3*time.Second), ` \* Bob@10.9.1.2 joined$`)
	cid.sees(slack(3*time.Second), ` \* Bob@10.9.2.2 joined$`)
	bob.sees(slack(3*time.Second), ` \* Ann@10.9.1.1 joined$`)
	bob.sees(slack(3*time.Second), ` \* Cid@10.9.2.3 joined$`)
	t.Logf("all had met after %v", time.Since(began))
	connected(slack(3*time.Second), 4, a, b, c)
}

func TestLabBoundNodeKeepsToItsNetwork(t *testing.T) {
	t.Parallel()
	west, east := newLAN(t), newLAN(t)
	a, c := west.host("10.9.1.1/24"), east.host("10.9.2.3/24")
	b := west.host("10.9.1.2/24")
	east.plug(b, "10.9.2.2/24")
	ann, cid := a.node("Ann"), c.node("Cid")
	bob := b.node("Bob", "-bind", "10.9.2.2")
	cid.sees(slack(2*time.Second), ` \* Bob@10.9.2.2 joined$`)
	bob.sees(slack(2*time.Second), ` \* Cid@10.9.2.3 joined$`)
	time.Sleep(2500 * time.Millisecond) // Ann's beacons go on
	if bob.count(`Ann`)+ann.count(`.`) > 0 {
		t.Errorf("Ann shows %q, Bob shows %q", ann.screen(), bob.screen())
	}
}

func TestLabLateInterfaceIsUsed(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.host("10.9.0.1/24"), newHost(t)
	alex, tim := a.node("Alex").up(), b.node("Tim").up()
	time.Sleep(1500 * time.Millisecond) // the quick beacons of the start are over
	l.plug(b, "10.9.0.2/24")
	began := time.Now()
	alex.sees(slack(5*time.Second), ` \* Tim@10.9.0.2 joined$`)
	tim.sees(slack(5*time.Second)-time.Since(began), ` \* Alex@10.9.0.1 joined$`)
	t.Logf("met after %v", time.Since(began))
}

func TestLabOneWayDialingSuffices(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a := l.host("10.9.0.1/24")
	a.drops("tcp flags & (syn|ack) == syn") // nobody can dial Ann, whoever has the lower ID
	hosts := []*host{a}
	ann := a.node("Ann")
	for i := range 5 {
		h := l.host(fmt.Sprintf("10.9.0.%d/24", i+2))
		hosts = append(hosts, h)
		h.node(fmt.Sprint("Node", i+2)).sees(slack(4*time.Second), ` \* Ann@10.9.0.1 joined$`)
	}
	ann.seesCount(slack(time.Second), 5, ` joined$`)
	connected(slack(4*time.Second), 6*5, hosts...)
}

// TestLabRestartedNodeIsLostAtOnce: as a supervisor does, the program is started
// anew as soon as it was killed, and takes the same port.
func TestLabRestartedNodeIsLostAtOnce(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.host("10.9.0.1/24"), l.host("10.9.0.2/24")
	ann, bob := a.node("Ann").up(), b.node("Bob")
	const rounds = 12 // 3 s are enough on a busy machine; a node that can't be had again is given up after 4 s
	for i := range rounds {
		ann.seesCount(slack(3*time.Second), i+1, ` \* Bob@10.9.0.2 joined$`)
		killed := time.Now()
		must(t, bob.cmd.Process.Kill())
		<-bob.exited
		bob = b.node("Bob")
		ann.seesCount(slack(3*time.Second)-time.Since(killed), i+1, ` \* Bob@10.9.0.2 lost$`)
	}
}

func TestLabNewcomerGetsTheWholeConversation(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	var hosts []*host
	for i := range 5 {
		hosts = append(hosts, l.host(fmt.Sprintf("10.9.0.%d/24", i+1)))
	}
	nodes := room(hosts, "Ann", "Bob", "Cid", "Dora", "Emil")
	var want []string
	for i := range 20 {
		p := nodes[i%5]
		text := fmt.Sprint("line ", i+1)
		p.say(text)
		want = append(want, p.name+": "+text)
		for _, q := range nodes { // what one says next comes after what he has seen
			q.seesCount(slack(2*time.Second), i+1, ": line ")
		}
	}
	for _, p := range nodes[:2] {
		p.say("/exit")
		ends(p, slack(time.Second), 0)
	}
	for _, p := range nodes[2:] {
		p.seesCount(slack(time.Second), 2, ` left$`)
	}

	zoe := l.host("10.9.0.6/24").node("Zoe")
	first := zoe.sees(slack(2*time.Second), ` \* history: \d+ events from (Cid|Dora|Emil)@10.9.0.[345]$`)
	zoe.sees(slack(2*time.Second), ` \* end of history$`)
	nodes[2].say("after")
	zoe.sees(slack(time.Second), `: after$`)
	lines := zoe.out.lines()
	from, to := slices.Index(lines, first), slices.IndexFunc(lines, func(l string) bool { return strings.HasSuffix(l, "* end of history") })
	if from != 0 {
		t.Errorf("%d lines before the history: %q", from, lines[:from])
	}
	frame := lines[from+1 : to]
	if want := fmt.Sprintf(" %d events ", len(frame)); !strings.Contains(first, want) {
		t.Errorf("%q stands before%slines", first, want)
	}
	if d := difference(spoken(frame), want); d != "" {
		t.Errorf("messages of the history: %s", d)
	}
	if !slices.IsSortedFunc(frame, func(a, b string) int { return strings.Compare(a[:19], b[:19]) }) {
		t.Errorf("history is not in the order of time:\n%s", strings.Join(frame, "\n"))
	}
	for re, n := range map[string]int{` joined$`: 5, ` \* (Ann|Bob)@\S+ left$`: 2, ` (lost|is back)$`: 0, `: line `: 20} {
		zoe.seesCount(slack(2*time.Second), n, re)
		if got := zoe.count(re); got != n {
			t.Errorf("Zoe shows %d lines %q, want %d", got, re, n)
		}
	}
	sameHistory(slack(2*time.Second), append([]*proc{zoe}, nodes[2:]...)...)
}

func TestLabHistoryCrossesTheWireOnce(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	var hosts []*host
	for i := range 5 {
		hosts = append(hosts, l.host(fmt.Sprintf("10.9.0.%d/24", i+1)))
	}
	nodes := room(hosts, "Ann", "Bob", "Cid", "Dora", "Emil")
	lines := numbered("Ann", bulk(40_000))
	nodes[0].pour(lines)
	for _, p := range nodes {
		p.seesCount(slack(10*time.Second), len(lines), ": Ann counts")
	}
	nodes[0].say("/exit")
	ends(nodes[0], slack(2*time.Second), 0)

	h := l.host("10.9.0.6/24")
	zoe := h.node("Zoe")
	zoe.seesCount(slack(5*time.Second), len(lines), ": Ann counts")
	zoe.holds(map[string][]string{"Ann": lines})
	h.receivedOnce(len(strings.Join(lines, "\n")))
}

// receivedOnce fails unless the host was sent a history of size bytes once. TCP
// sends again what it believes lost, the more the slower the link, so what counts
// is what the open connections brought. What came by a connection that has ended
// shows in the count of the interface alone.
func (h *host) receivedOnce(size int) {
	h.t.Helper()
	brought, n := 0, 0
	for _, m := range regexp.MustCompile(`bytes_received:(\d+)`).FindAllStringSubmatch(output(h.t, "", h.inside("ss", "-tin")...), -1) {
		b, err := strconv.Atoi(m[1])
		must(h.t, err)
		brought, n = brought+b, n+1
	}
	if n == 0 {
		h.t.Fatal("ss tells of no connection how much it brought")
	}
	f := strings.Fields(output(h.t, "", h.inside("grep", "eth0:", "/proc/net/dev")...))
	in, err := strconv.Atoi(f[1])
	must(h.t, err)
	h.t.Logf("%d bytes brought by %d connections, %d at the interface, for a history of %d", brought, n, in, size)
	const besides = 10_000 // handshakes, heartbeats, what is said meanwhile
	if brought > size*11/10+besides || in > size*3/2+2*besides {
		h.t.Errorf("%d bytes brought by connections and %d at the interface, for a history of %d", brought, in, size)
	}
}

// TestLabSlowLinkCarriesHistoryOnceAndTalkMeanwhile: a newcomer behind a link of
// 64 or 256 kbit/s has the history for little more than its bytes, and what is
// said meanwhile at once.
func TestLabSlowLinkCarriesHistoryOnceAndTalkMeanwhile(t *testing.T) {
	t.Parallel()
	for rate, size := range map[string]int{"64kbit": 80_000, "256kbit": 260_000} {
		t.Run(rate, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			nodes := room([]*host{l.host("10.9.0.1/24"), l.host("10.9.0.2/24")}, "Ann", "Bob")
			ann, bob := nodes[0], nodes[1]
			lines := numbered("Ann", size/100)
			for i := range lines {
				lines[i] += strings.Repeat(".", 99-len(lines[i]))
			}
			ann.pour(lines)
			bob.seesCount(slack(10*time.Second), len(lines), ": Ann counts")

			h := newHost(t)
			c := l.plug(h, "10.9.0.3/24")
			output(t, "", l.inside("tc", "qdisc", "add", "dev", c.port, "root", "tbf", "rate", rate, "burst", "2kb", "latency", "60s")...)
			zoe := h.node("Zoe").up()
			ann.sees(slack(5*time.Second), `Zoe@10.9.0.3 joined`)
			talk := func(from *proc, text string) {
				from.say(text)
				zoe.sees(slack(3*time.Second), `: `+text+`$`)
			}
			talk(ann, "live 1")
			talk(ann, "live 2")
			if got := zoe.count(": Ann counts"); got > 0 {
				t.Errorf("the history was there already: %d lines", got)
			}
			bob.sees(slack(10*time.Second), `Zoe@10.9.0.3 joined`) // its handshake comes behind what Ann has sent
			talk(bob, "live 3")
			zoe.seesCount(slack(15*time.Second), len(lines), ": Ann counts")
			h.receivedOnce(size)
			zoe.sees(slack(time.Second), ` \* end of history$`)
			if got := zoe.count(` \* history: `); got != 1 {
				t.Errorf("%d frames", got)
			}
		})
	}
}

func TestLabNamesakesGetOn(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	nodes := room([]*host{l.host("10.9.0.1/24"), l.host("10.9.0.2/24"), l.host("10.9.0.3/24")}, "Ann", "Sam", "Sam")
	ann, sam2, sam3 := nodes[0], nodes[1], nodes[2]
	ann.sees(0, ` \* Sam@10.9.0.2 joined$`)
	ann.sees(0, ` \* Sam@10.9.0.3 joined$`)
	sam2.say("I am the second")
	ann.sees(slack(time.Second), ` Sam@10.9.0.2: I am the second$`)
	sam3.sees(slack(time.Second), ` Sam@10.9.0.2: I am the second$`)
	ann.say("@Sam which of you", "@Sam@10.9.0.3 you")
	sam3.sees(slack(time.Second), ` Ann@10.9.0.1 -> me: you$`)
	ann.complains(slack(time.Second), `^p2pchat: .*Sam@10.9.0.2`)
	ann.complains(slack(time.Second), `^p2pchat: .*Sam@10.9.0.3`)
	sam3.say("done")
	sam2.sees(slack(time.Second), ` Sam@10.9.0.3: done$`)
	if sam2.count(` -> me: `)+sam3.count(` -> me: which`) > 0 {
		t.Errorf("an ambiguous direct message was sent: %q, %q", sam2.screen(), sam3.screen())
	}
}

// TestLabNetworkWithoutBroadcastStays: a connection lives as long as its
// address, whether or not a beacon can be sent from there.
func TestLabNetworkWithoutBroadcastStays(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.host("10.9.0.2/31"), l.host("10.9.0.3/31") // RFC 3021
	ann, bob := a.node("Ann"), b.node("Bob", "-peer", "10.9.0.2")
	ann.sees(slack(2*time.Second), ` \* Bob@10.9.0.3 joined$`)
	bob.sees(slack(2*time.Second), ` \* Ann@10.9.0.2 joined$`)
	ann.complains(slack(time.Second), `^p2pchat: Ann at 10.9.0.2:7700 `)
	ann.say("/members")
	time.Sleep(5 * time.Second) // two beacons, had there been an address for them
	ann.say("/members")
	ann.seesCount(slack(time.Second), 2, ` \* member Bob@`)
	since := map[string]bool{}
	for _, line := range ann.out.lines() {
		if _, at, ok := strings.Cut(line, " since "); ok {
			since[at] = true
		}
	}
	if len(since) != 1 {
		t.Errorf("Ann was connected with Bob since each of %v", since)
	}
	connected(slack(time.Second), 2, a, b)
}

// TestLabAddressThatIsNotKnownIsNotMadeUp: Ann is up before her network.
func TestLabAddressThatIsNotKnownIsNotMadeUp(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a := newHost(t).withoutIPv6()
	ann := a.node("Ann")
	ann.complains(slack(2*time.Second), `^p2pchat: Ann at port 7700 of this host, which has no network yet, in the open room`)
	l.plug(a, "10.9.0.1/24")
	bob := l.host("10.9.0.2/24").node("Bob")
	bob.sees(slack(5*time.Second), ` \* Ann@10.9.0.1 joined$`)
	ann.say("now I have one")
	bob.sees(slack(time.Second), ` Ann@10.9.0.1: now I have one$`)
	ann.closeInput()
	ends(ann, slack(2*time.Second), 0)
	cid := l.host("10.9.0.3/24").node("Cid")
	cid.sees(slack(5*time.Second), ` \* Ann@\? joined$`)
	cid.sees(slack(time.Second), ` \* Ann@\S*\? left$`)
	if all := bob.out.String() + cid.out.String(); strings.Contains(all, "127.") {
		t.Errorf("somebody shows an address that is nobody's:\n%s", all)
	}
}

func TestLabTakenTCPPortIsAvoided(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	foreign, err := net.Listen("tcp4", fmt.Sprint("127.0.0.1:", port))
	must(t, err)
	defer foreign.Close()
	ann, bob := startNode(t, port, []string{"Ann"}), startNode(t, port, []string{"Bob"})
	line := ann.sees(slack(2*time.Second), ` \* Bob@127.0.0.1:\d+ joined$`)
	bob.sees(slack(2*time.Second), ` \* Ann@127.0.0.1:\d+ joined$`)
	if strings.Contains(line, fmt.Sprintf(":%d ", port)) {
		t.Errorf("%q names the port that is taken", line)
	}
}

func TestLabTakenUDPPortIsAnError(t *testing.T) {
	t.Parallel()
	foreign, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	defer foreign.Close()
	port := foreign.LocalAddr().(*net.UDPAddr).Port
	p := startNode(t, port, []string{"Ann"})
	ends(p, slack(2*time.Second), 1)
	if got := p.err.String(); !regexp.MustCompile(fmt.Sprintf(`^p2pchat: [^\n]*\b%d\b[^\n]*; [^\n]*-port[^\n]*\n$`, port)).MatchString(got) {
		t.Errorf("stderr is %q, want one line that names the port and the remedy", got)
	}
	if got := p.out.String(); got != "" {
		t.Errorf("stdout is %q", got)
	}
}

// The recorded conversation has on each line who speaks, a TAB, and what.
func TestLabRecordedConversationIsReadBackComplete(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/conversation.txt")
	must(t, err)
	record := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(record) < 200 {
		t.Fatalf("the conversation has only %d lines", len(record))
	}
	port := freePort(t)
	crew := map[string]*proc{}
	for _, name := range []string{"Marta", "Piet", "Ines"} {
		crew[name] = startNode(t, port, []string{name})
	}
	for _, p := range crew {
		p.seesCount(slack(2*time.Second), 2, ` joined$`)
	}
	var want []string
	for i, l := range record {
		name, text, _ := strings.Cut(l, "\t")
		crew[name].say(text)
		want = append(want, name+": "+text)
		for _, p := range crew {
			p.seesCount(slack(2*time.Second), i+1, ": ")
		}
	}
	zoe := startNode(t, port, []string{"Zoe"})
	zoe.sees(slack(2*time.Second), ` \* end of history$`)
	for _, p := range crew {
		p.closeInput()
		ends(p, slack(3*time.Second), 0)
	}
	zoe.seesCount(slack(time.Second), 3, ` left$`)
	crew["Zoe"] = zoe
	for _, p := range crew {
		if d := difference(spoken(p.out.lines()), want); d != "" {
			t.Errorf("%s shows the conversation otherwise: %s", p.name, d)
		}
	}
}

// One history everywhere, and nothing lost.

func TestLabFiveFloodsEndInOneHistory(t *testing.T) {
	t.Parallel()
	each := bulk(2000)
	l := newLAN(t)
	var hosts []*host
	for i := range 5 {
		hosts = append(hosts, l.host(fmt.Sprintf("10.9.0.%d/24", i+1)))
	}
	nodes := room(hosts, "Ann", "Bob", "Cid", "Dora", "Emil")
	want := map[string][]string{}
	began := time.Now()
	for _, p := range nodes {
		want[p.name] = numbered(p.name, each)
		p.pour(want[p.name])
	}
	for _, p := range nodes {
		p.seesCount(slack(15*time.Second), 5*each, " counts ")
	}
	t.Logf("all had all after %v", time.Since(began))
	for _, p := range nodes {
		p.holds(want)
	}
	undisturbed(nodes...)
	sameHistory(slack(5*time.Second), nodes...)
}

// A node that prints nothing any more still takes part, and has all of it to
// print when somebody reads again.
func TestLabUnreadOutputHoldsUpNobody(t *testing.T) {
	t.Parallel()
	n := bulk(100_000)
	lines := numbered("Ann", n)
	flood := func(t *testing.T, output *os.File) (took time.Duration, nodes []*proc) {
		l := newLAN(t)
		a, b, c := l.host("10.9.0.1/24"), l.host("10.9.0.2/24"), l.host("10.9.0.3/24")
		nodes = []*proc{a.node("Ann"), b.node("Bob"), c.nodeWith("Cid", nil, withOutput(output))}
		nodes[0].seesCount(slack(2*time.Second), 2, ` joined$`)
		nodes[1].seesCount(slack(2*time.Second), 2, ` joined$`)
		began := time.Now()
		nodes[0].pour(lines)
		nodes[1].seesCount(slack(20*time.Second), n, " counts ")
		return time.Since(began), nodes
	}

	const rounds = 6               // at the most: other work on the machine disturbs
	var read, unread time.Duration // the best of them
	best := func(a *time.Duration, b time.Duration) {
		if *a == 0 || b < *a {
			*a = b
		}
	}
	for round := 0; round < rounds && (round == 0 || unread > 2*read); round++ {
		t.Run("read", func(t *testing.T) {
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			must(t, err)
			defer null.Close()
			took, _ := flood(t, null)
			best(&read, took)
		})
		t.Run("unread", func(t *testing.T) {
			r, w, err := os.Pipe()
			must(t, err)
			t.Cleanup(func() { r.Close() })
			took, nodes := flood(t, w)
			best(&unread, took)
			w.Close()
			bob, cid := nodes[1], nodes[2]
			if b, c := bob.megabytes(), cid.megabytes(); c > b+30 {
				t.Errorf("the unread node holds %d MB, the read one %d", c, b)
			} else {
				t.Logf("the unread node holds %d MB, the read one %d", c, b)
			}
			go io.Copy(cid.out, r) // ends with the program
			cid.seesCount(slack(10*time.Second), n, " counts ")
			cid.holds(map[string][]string{"Ann": lines})
		})
	}
	t.Logf("%d lines took %v beside a node that is read, %v beside one that isn't", n, read, unread)
	if unread > 2*read { // whoever waits for the unread one waits for ever; how little it costs the figures show
		t.Errorf("%d lines took %v beside a node that is read, %v beside one that isn't", n, read, unread)
	}
}

func TestLabStoppedNodeHoldsUpNobody(t *testing.T) {
	t.Parallel()
	n := bulk(200_000)
	l := newLAN(t)
	var hosts []*host
	for i := range 4 {
		hosts = append(hosts, l.host(fmt.Sprintf("10.9.0.%d/24", i+1)))
	}
	nodes := room(hosts, "Ann", "Bob", "Cid", "Dora")
	ann, bob, cid, dora := nodes[0], nodes[1], nodes[2], nodes[3]
	lines := numbered("Ann", n)
	ann.pour(lines[:n/2])
	cid.seesCount(slack(5*time.Second), n/10, " counts ")
	freeze(cid)
	ann.pour(lines[n/2:]) // so that there is more to come, however late the freeze
	stopped := time.Now()
	for _, p := range []*proc{ann, bob, dora} {
		p.seesCount(slack(10*time.Second), n, " counts ")
	}
	t.Logf("the others had all %v after one stopped", time.Since(stopped))
	if had := cid.count(" counts "); had > n/2 {
		t.Errorf("the stopped node has shown %d lines", had)
	}
	bob.say("still here?")
	dora.sees(slack(time.Second), `: still here\?$`)
	thaw(cid)
	cid.seesCount(slack(5*time.Second), n, " counts ")
	cid.sees(slack(2*time.Second), `: still here\?$`)
	for _, p := range nodes {
		p.holds(map[string][]string{"Ann": lines, "Bob": {"still here?"}})
	}
}

func TestLabLineOfThreeRelays(t *testing.T) {
	t.Parallel()
	west, east := newLAN(t), newLAN(t)
	a, c := west.host("10.9.1.1/24"), east.host("10.9.2.3/24")
	b := west.host("10.9.1.2/24")
	east.plug(b, "10.9.2.2/24")
	ann, bob, cid := a.node("Ann"), b.node("Bob"), c.node("Cid", "-wait", "1s")
	ann.sees(slack(2*time.Second), ` \* Bob@10.9.1.2 joined$`)
	cid.sees(slack(2*time.Second), ` \* Bob@10.9.2.2 joined$`)
	cid.sees(slack(3*time.Second), ` \* Ann@10.9.1.1\? joined$`)
	ann.sees(slack(3*time.Second), ` \* Cid@10.9.2.3\? joined$`)

	began := time.Now()
	ann.say("from the west")
	cid.sees(slack(3*time.Second), ` Ann@10.9.1.1\?: from the west$`)
	t.Logf("west to east took %v", time.Since(began))
	began = time.Now()
	cid.say("from the east")
	ann.sees(slack(3*time.Second), ` Cid@10.9.2.3\?: from the east$`)
	t.Logf("east to west took %v", time.Since(began))

	cid.say("/members")
	cid.sees(slack(3*time.Second), ` \* member Ann@10.9.1.1:7700\? through Bob@10.9.2.2:7700 since `)
	for _, who := range []string{"@Ann", "@10.9.1.1", "Ann/"} {
		cid.say(who + " psst")
	}
	eventually(t, slack(5*time.Second), cid.err.String, func() bool {
		return count(cid.err.lines(), `^p2pchat: Ann@10.9.1.1:7700\? is not connected .* heard through Bob@10.9.2.2:7700 alone`) == 3
	})

	ann.say("/exit")
	ends(ann, slack(time.Second), 0)
	cid.sees(slack(3*time.Second), ` \* Ann@10.9.1.1\? left$`)
	if strings.Contains(ann.out.String()+bob.out.String(), "psst") {
		t.Error("a direct message went through somebody else")
	}

	dora := east.host("10.9.2.4/24").node("Dora")
	dora.sees(slack(3*time.Second), ` Ann@10.9.1.1\?: from the west$`)
	dora.sees(slack(3*time.Second), ` \* Ann@10.9.1.1\? left$`)
	for _, p := range []*proc{bob, cid, dora} {
		p.holds(map[string][]string{"Ann": {"from the west"}, "Cid": {"from the east"}})
		if n := p.count(`(lost|is back)$`); n > 0 {
			t.Errorf("%s shows %d nodes lost or back", p.name, n)
		}
	}
	sameHistory(slack(3*time.Second), bob, cid, dora)
}

// Two subnets behind a router have no broadcast in common. One node that is
// told of one other is enough for everybody to meet everybody.
func TestLabOnePeerJoinsTwoSubnets(t *testing.T) {
	t.Parallel()
	west, east, router := newLAN(t), newLAN(t), newHost(t)
	west.plug(router, "10.9.1.254/24")
	east.plug(router, "10.9.2.254/24")
	output(t, "1\n", router.inside("tee", "/proc/sys/net/ipv4/ip_forward")...)
	var hosts []*host
	for i := range 6 {
		side, net := west, 1
		if i >= 3 {
			side, net = east, 2
		}
		h := side.host(fmt.Sprintf("10.9.%d.%d/24", net, i+1))
		h.ip(fmt.Sprintf("route add default via 10.9.%d.254", net))
		hosts = append(hosts, h)
	}
	var nodes []*proc
	for i, name := range []string{"Ann", "Bob", "Cid", "Dora", "Emil"} {
		nodes = append(nodes, hosts[i].node(name))
	}
	for i, p := range nodes {
		p.seesCount(slack(2*time.Second), []int{2, 1}[i/3], ` joined$`)
	}
	began := time.Now()
	nodes = append(nodes, hosts[5].node("Fred", "-peer", "10.9.1.1"))
	for _, p := range nodes {
		p.seesCount(slack(5*time.Second)-time.Since(began), 5, ` joined$`)
	}
	connected(slack(5*time.Second)-time.Since(began), 6*5, hosts...)
	t.Logf("one mesh after %v", time.Since(began))
	nodes[4].say("@Bob across the router")
	nodes[1].sees(slack(time.Second), ` Emil@10.9.2.5 -> me: across the router$`)
	undisturbed(nodes...)
}

// Who listens to the wire learns nothing of a private room, and reads no text
// of an open one.
func TestLabWireShowsNothing(t *testing.T) {
	t.Parallel()
	needLab(t)
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("tcpdump is not installed, and the standard library can't capture")
	}
	const secret, private, open = "seven herrings under a blue moon", "the key lies beneath the doormat", "nobody reads this on the way"
	dir := t.TempDir()
	key := filepath.Join(dir, "secret")
	must(t, os.WriteFile(key, []byte(secret+"\n"), 0o600))
	capture := filepath.Join(dir, "capture")

	l := newLAN(t)
	dump := start(t, "tcpdump", l.inside("tcpdump", "-i", "any", "-s", "0", "-U", "-Z", "root", "-w", capture))
	dump.complains(patience, `listening on`)
	wilma, bert := l.host("10.9.0.1/24").node("Wilhelmina", "-secret", key), l.host("10.9.0.2/24").node("Bartholomew", "-secret", key)
	alexa, timo := l.host("10.9.0.3/24").node("Alexandra"), l.host("10.9.0.4/24").node("Timotheus")
	wilma.sees(slack(3*time.Second), ` \* Bartholomew@10.9.0.2 joined$`)
	alexa.sees(slack(3*time.Second), ` \* Timotheus@10.9.0.4 joined$`)
	wilma.say(private)
	bert.sees(slack(time.Second), private)
	wilma.say("@Bartholomew " + private)
	bert.sees(slack(time.Second), `-> me: `+private)
	alexa.say(open)
	timo.sees(slack(time.Second), open)
	bert.say("/name Balthasar")
	wilma.sees(slack(time.Second), ` is now Balthasar$`)
	time.Sleep(2500 * time.Millisecond) // beacons of each room reach the other
	for _, p := range []*proc{wilma, bert, alexa, timo} {
		if n := p.count(` joined$`); n != 1 {
			t.Errorf("%s saw %d join, want 1", p.name, n)
		}
		if lines := p.err.lines(); len(lines) > 2 {
			t.Errorf("%s complains of the other room: %q", p.name, lines)
		}
		p.say("/exit")
		ends(p, slack(time.Second), 0)
	}
	dump.signal(syscall.SIGINT)
	dump.exits(patience)

	for filter, least := range map[string]int{"tcp port 7700 and greater 100": 20, "udp port 7700": 8} {
		if n := strings.Count(output(t, "", "tcpdump", "-n", "-r", capture, filter), " IP "); n < least {
			t.Errorf("the capture holds only %d packets of %q", n, filter)
		}
	}
	b, err := os.ReadFile(capture)
	must(t, err)
	for _, word := range []string{secret, private, open, "herrings", "doormat", "Wilhelmina", "Bartholomew", "Balthasar"} {
		if bytes.Contains(b, []byte(word)) {
			t.Errorf("the wire shows %q", word)
		}
	}
}

// TestLabFaults runs claims that wait more than they work, all at once. So
// many nodes at work are slow at times, which is why nothing here has to
// happen within less than three seconds.
func TestLabFaults(t *testing.T) {
	t.Parallel()
	needLab(t)
	if testing.Short() {
		t.Skip("waits out long faults")
	}
	var all sync.WaitGroup
	for name, claim := range map[string]func(*testing.T){
		"ShortFreezeGoesUnnoticed":      shortFreezeGoesUnnoticed,
		"LongFreezeIsLostAndBack":       longFreezeIsLostAndBack,
		"PulledCableIsLostAndBack":      pulledCableIsLostAndBack,
		"PartitionHeals":                partitionHeals,
		"HeavyLossLosesNothing":         heavyLossLosesNothing,
		"ChurnLeavesNothingBehind":      churnLeavesNothingBehind,
		"NewAddressIsFollowed":          newAddressIsFollowed,
		"InterfaceMayGoAndComeBack":     interfaceMayGoAndComeBack,
		"KilledNodeBeyondAnotherIsLost": killedNodeBeyondAnotherIsLost,
		"RestartIsAnotherNode":          restartIsAnotherNode,
		"FrozenWhileTheOthersLeave":     frozenWhileTheOthersLeave,
		"DeadTCPIsLostAndBack":          deadTCPIsLostAndBack,
		"LargePacketsThatVanishAreTold": largePacketsThatVanishAreTold,
		"OneCableOfTwoMayGo":            oneCableOfTwoMayGo,
		"RenumberedInterfaceIsUsed":     renumberedInterfaceIsUsed,
	} {
		all.Go(func() { t.Run(name, claim) })
	}
	all.Wait()
}

// three is a room of Ann, Bob and Cid.
func three(t *testing.T) (hosts []*host, nodes []*proc) {
	l := newLAN(t)
	for i := range 3 {
		hosts = append(hosts, l.host(fmt.Sprintf("10.9.0.%d/24", i+1)))
	}
	return hosts, room(hosts, "Ann", "Bob", "Cid")
}

func shortFreezeGoesUnnoticed(t *testing.T) {
	_, nodes := three(t)
	ann, bob, cid := nodes[0], nodes[1], nodes[2]
	frozen := time.Now()
	freeze(cid)
	ann.say("are you asleep?")
	bob.sees(slack(3*time.Second), `: are you asleep\?$`)
	time.Sleep(3*time.Second - time.Since(frozen)) // with what was quiet before it, this is near to a loss
	thaw(cid)
	cid.sees(slack(3*time.Second), `: are you asleep\?$`)
	cid.say("no")
	ann.sees(slack(3*time.Second), ` Cid@10.9.0.3: no$`)
	time.Sleep(4 * time.Second) // a wrong suspicion shows by now
	undisturbed(nodes...)
}

func longFreezeIsLostAndBack(t *testing.T) {
	hosts, nodes := three(t)
	ann, bob, cid := nodes[0], nodes[1], nodes[2]
	ann.say("one")
	cid.seesCount(slack(3*time.Second), 1, ": one")
	frozen := time.Now()
	freeze(cid)
	ann.say("two")
	ann.sees(slack(8*time.Second), ` \* Cid@10.9.0.3 lost$`)
	bob.sees(slack(8*time.Second)-time.Since(frozen), ` \* Cid@10.9.0.3 lost$`)
	t.Logf("lost after %v", time.Since(frozen))
	ann.say("three")
	bob.say("four")
	time.Sleep(lasting(15*time.Second, 10*time.Second) - time.Since(frozen))
	if n := ann.count(` is back$`); n > 0 {
		t.Error("back while frozen")
	}
	thawed := time.Now()
	thaw(cid)
	ann.sees(slack(5*time.Second), ` \* Cid@\S+ is back$`)
	bob.sees(slack(5*time.Second)-time.Since(thawed), ` \* Cid@\S+ is back$`)
	for _, text := range []string{": two", ": three", ": four"} {
		cid.seesCount(slack(5*time.Second)-time.Since(thawed), 1, text)
	}
	t.Logf("back and complete after %v", time.Since(thawed))
	cid.say("five")
	ann.seesCount(slack(3*time.Second), 1, ": five")
	bob.seesCount(slack(3*time.Second), 1, ": five")
	connected(slack(8*time.Second), 3*2, hosts...)
	want := map[string][]string{"Ann": {"one", "two", "three"}, "Bob": {"four"}, "Cid": {"five"}}
	for _, p := range nodes {
		p.holds(want)
	}
	for _, p := range nodes[:2] {
		if lost, back := p.count(` lost$`), p.count(` is back$`); lost != 1 || back != 1 {
			t.Errorf("%s saw %d lost and %d back, want one each", p.name, lost, back)
		}
	}
	sameHistory(slack(3*time.Second), nodes...)
}

func pulledCableIsLostAndBack(t *testing.T) {
	hosts, nodes := three(t)
	ann, bob, cid := nodes[0], nodes[1], nodes[2]
	pulled := time.Now()
	hosts[2].cables[0].out()
	ann.say("cable?")
	cid.say("nobody hears me")
	ann.sees(slack(8*time.Second), ` \* Cid@10.9.0.3 lost$`)
	bob.sees(slack(8*time.Second)-time.Since(pulled), ` \* Cid@10.9.0.3 lost$`)
	cid.sees(slack(8*time.Second)-time.Since(pulled), ` \* Ann@10.9.0.1 lost$`)
	cid.sees(slack(8*time.Second)-time.Since(pulled), ` \* Bob@10.9.0.2 lost$`)
	t.Logf("lost after %v", time.Since(pulled))
	bob.say("gone")
	plugged := time.Now()
	hosts[2].cables[0].in()
	ann.sees(slack(5*time.Second), ` \* Cid@\S+ is back$`)
	bob.sees(slack(5*time.Second)-time.Since(plugged), ` \* Cid@\S+ is back$`)
	cid.sees(slack(5*time.Second)-time.Since(plugged), ` \* Ann@\S+ is back$`)
	cid.sees(slack(5*time.Second)-time.Since(plugged), ` \* Bob@\S+ is back$`)
	for _, p := range nodes {
		p.seesCount(slack(5*time.Second)-time.Since(plugged), 1, "nobody hears me")
		p.seesCount(slack(5*time.Second)-time.Since(plugged), 1, ": gone")
		p.seesCount(slack(5*time.Second)-time.Since(plugged), 1, `: cable\?`)
	}
	t.Logf("whole again after %v", time.Since(plugged))
	for _, p := range nodes {
		p.holds(map[string][]string{"Ann": {"cable?"}, "Bob": {"gone"}, "Cid": {"nobody hears me"}})
	}
	connected(slack(3*time.Second), 3*2, hosts...)
	sameHistory(slack(3*time.Second), nodes...)
}

// Ten nodes fall into two halves that both go on, one node dies meanwhile, and
// what it said is known on both sides after all.
func partitionHeals(t *testing.T) {
	l := newLAN(t)
	var hosts []*host
	var names []string
	for i := range 10 {
		hosts = append(hosts, l.host(fmt.Sprintf("10.9.0.%d/24", i+1)))
		names = append(names, fmt.Sprint("Node", i))
	}
	nodes := room(hosts, names...)
	want := map[string][]string{}
	speak := func(text string, speakers, hearers []*proc) {
		for _, p := range speakers {
			p.say(text)
			want[p.name] = append(want[p.name], text)
		}
		for _, p := range hearers {
			p.seesCount(slack(5*time.Second), len(speakers), ": "+text)
		}
	}
	speak("together", nodes, nodes)

	left, right, victim := nodes[:5], nodes[5:9], nodes[9]
	cut := time.Now()
	l.split(hosts[5:]...)
	speak("just parted", left, left)
	speak("parted just now", nodes[5:], nodes[5:])
	must(t, victim.cmd.Process.Kill())
	for _, p := range right {
		p.sees(slack(3*time.Second), ` \* Node9@10.9.0.10 lost$`)
	}
	for i, p := range nodes[:9] {
		p.seesCount(slack(8*time.Second)-time.Since(cut), []int{5, 6}[i/5], ` lost$`)
	}
	speak("long parted", left, left)
	speak("parted for long", right, right)

	healed := time.Now()
	l.heal(hosts[5:]...)
	for _, p := range nodes[:9] {
		p.seesCount(slack(5*time.Second)-time.Since(healed), 5+5+5+4, "parted")
	}
	for i, p := range nodes[:9] {
		p.seesCount(slack(5*time.Second)-time.Since(healed), []int{4, 5}[i/5], ` is back$`)
	}
	connected(slack(8*time.Second)-time.Since(healed), 9*8, hosts[:9]...)
	t.Logf("whole again after %v", time.Since(healed))
	for _, p := range nodes[:9] {
		p.holds(want)
		if p.count(` \* Node9@\S+ is back$`) > 0 {
			t.Errorf("%s shows the dead as back", p.name)
		}
	}
	sameHistory(slack(5*time.Second), nodes[:9]...)
}

func heavyLossLosesNothing(t *testing.T) {
	const each = 100
	l := newLAN(t)
	var hosts []*host
	for i := range 5 {
		hosts = append(hosts, l.host(fmt.Sprintf("10.9.0.%d/24", i+1)))
	}
	nodes := room(hosts, "Ann", "Bob", "Cid", "Dora", "Emil")
	for _, h := range hosts {
		h.drops("numgen random mod 100 < 30")
	}
	want := map[string][]string{}
	for _, p := range nodes {
		want[p.name] = numbered(p.name, each)
	}
	pace := time.NewTicker(lasting(time.Minute, 15*time.Second) / each)
	defer pace.Stop()
	for i := range each {
		<-pace.C
		for _, p := range nodes {
			p.say(want[p.name][i])
		}
	}
	began := time.Now()
	for _, p := range nodes {
		p.seesCount(slack(20*time.Second), 5*each, " counts ")
	}
	t.Logf("all had all %v after the last line", time.Since(began))
	for _, p := range nodes {
		p.holds(want)
	}
	undisturbed(nodes...)
	sameHistory(slack(10*time.Second), nodes...)
}

func churnLeavesNothingBehind(t *testing.T) {
	l := newLAN(t)
	nodes := room([]*host{l.host("10.9.0.1/24"), l.host("10.9.0.2/24")}, "Ann", "Tess")
	ann, tess := nodes[0], nodes[1]
	h := l.host("10.9.0.3/24")
	files, memory := ann.descriptors(), ann.megabytes()

	stay := 200 * time.Millisecond
	if raced() {
		stay *= 3 // it takes a while to start
	}
	rounds := int(lasting(30*time.Second, 10*time.Second) / stay)
	pace := time.NewTicker(stay)
	defer pace.Stop()
	texts := numbered("Tess", rounds)
	var guests []*proc
	for i := range rounds {
		tess.say(texts[i])
		guests = append(guests, h.node(fmt.Sprintf("Guest%03d", i)))
		<-pace.C
		guests[i].say("/exit")
	}
	for _, p := range guests {
		ends(p, slack(3*time.Second), 0)
	}
	ann.seesCount(slack(3*time.Second), rounds, " counts ")
	ann.holds(map[string][]string{"Tess": texts})
	for _, p := range nodes {
		var joined, left, lost int
		eventually(t, slack(3*time.Second), func() string { return fmt.Sprintf("%s saw %d join and %d leave", p.name, joined, left) }, func() bool {
			joined, left, lost = p.count(` \* Guest\S+ joined$`), p.count(` \* Guest\S+ left$`), p.count(` (lost|is back)$`)
			return joined == left
		})
		t.Logf("%s saw %d join and %d leave, of %d guests", p.name, joined, left, rounds)
		// Where the machine is busy, a guest may be gone before it met anybody.
		if joined == 0 || lost != 0 {
			t.Errorf("%s saw %d join, %d leave and %d lost or back, of %d guests", p.name, joined, left, lost, rounds)
		}
	}
	// What is left may take a moment to go, and the runtime keeps some memory.
	n := 0
	eventually(t, slack(8*time.Second), func() string {
		n = ann.descriptors()
		return fmt.Sprintf("%d descriptors, %d before", n, files)
	}, func() bool { return n <= files+2 })
	after := ann.megabytes()
	t.Logf("%d guests; memory was %d MB and is %d MB", rounds, memory, after)
	if after > memory+30 {
		t.Errorf("memory was %d MB and is %d MB", memory, after)
	}
	ann.signal(syscall.SIGABRT) // makes the Go runtime list its goroutines
	ann.exits(patience)
	if n := strings.Count("\n"+ann.err.String(), "\ngoroutine "); n == 0 || n > 40 {
		t.Errorf("%d goroutines with one peer, after %d guests", n, rounds)
	}
}

func newAddressIsFollowed(t *testing.T) {
	hosts, nodes := three(t)
	ann, bob, cid := nodes[0], nodes[1], nodes[2]
	began := time.Now()
	hosts[2].ip("addr flush dev eth0", "addr add 10.9.0.77/24 broadcast + dev eth0")
	ann.say("where are you?")
	cid.say("here")
	cid.seesCount(slack(5*time.Second)-time.Since(began), 1, "where are you?")
	ann.seesCount(slack(5*time.Second)-time.Since(began), 1, ": here")
	bob.seesCount(slack(5*time.Second)-time.Since(began), 1, ": here")
	t.Logf("whole again after %v", time.Since(began))
	connected(slack(8*time.Second), 3*2, hosts...)
	ann.say("/members")
	ann.sees(slack(3*time.Second), ` \* member Cid@10.9.0.77:7700 since `)
	for _, p := range nodes {
		p.holds(map[string][]string{"Ann": {"where are you?"}, "Cid": {"here"}})
	}
	sameHistory(slack(3*time.Second), nodes...)
}

func interfaceMayGoAndComeBack(t *testing.T) {
	hosts, nodes := three(t)
	ann, bob, cid := nodes[0], nodes[1], nodes[2]
	began := time.Now()
	hosts[2].cables[0].remove()
	ann.sees(slack(8*time.Second), ` \* Cid@10.9.0.3 lost$`)
	bob.sees(slack(8*time.Second)-time.Since(began), ` \* Cid@10.9.0.3 lost$`)
	ann.say("while away")
	cid.say("all alone")
	began = time.Now()
	hosts[2].cables[0].insert()
	for _, p := range nodes {
		p.seesCount(slack(5*time.Second)-time.Since(began), 1, ": while away")
		p.seesCount(slack(5*time.Second)-time.Since(began), 1, ": all alone")
	}
	ann.sees(slack(5*time.Second)-time.Since(began), ` \* Cid@\S+ is back$`)
	bob.sees(slack(5*time.Second)-time.Since(began), ` \* Cid@\S+ is back$`)
	t.Logf("whole again after %v", time.Since(began))
	connected(slack(8*time.Second), 3*2, hosts...)
	for _, p := range nodes {
		p.holds(map[string][]string{"Ann": {"while away"}, "Cid": {"all alone"}})
	}
	sameHistory(slack(3*time.Second), nodes...)
}

// Who is connected with nobody but Bob hears from Bob who vanished.
func killedNodeBeyondAnotherIsLost(t *testing.T) {
	west, east := newLAN(t), newLAN(t)
	a, c := west.host("10.9.1.1/24"), east.host("10.9.2.3/24")
	b := west.host("10.9.1.2/24")
	east.plug(b, "10.9.2.2/24")
	ann, bob, cid := a.node("Ann"), b.node("Bob"), c.node("Cid")
	cid.sees(slack(4*time.Second), ` \* Ann@10.9.1.1\? joined$`)
	must(t, ann.cmd.Process.Kill())
	bob.sees(slack(3*time.Second), ` \* Ann@10.9.1.1 lost$`)
	cid.sees(slack(3*time.Second), ` \* Ann@10.9.1.1\? lost$`)
}

// A program that is started again is a new node: it joins and is not back.
func restartIsAnotherNode(t *testing.T) {
	hosts, nodes := three(t)
	ann, bob, cid := nodes[0], nodes[1], nodes[2]
	cid.say("my last words")
	ann.seesCount(slack(3*time.Second), 1, "my last words")
	bob.seesCount(slack(3*time.Second), 1, "my last words")
	must(t, cid.cmd.Process.Kill())
	<-cid.exited
	cid = hosts[2].node("Cid")
	for _, p := range nodes[:2] {
		p.seesCount(slack(3*time.Second), 2, ` \* Cid@10.9.0.3 joined$`)
		p.sees(slack(3*time.Second), ` \* Cid@10.9.0.3 lost$`)
	}
	cid.sees(slack(3*time.Second), `: my last words$`)
	cid.sees(slack(3*time.Second), ` \* end of history$`)
	connected(slack(3*time.Second), 3*2, hosts...)
	if ann.count(` is back$`) > 0 {
		t.Error("the new one is taken for the old one")
	}
	sameHistory(slack(3*time.Second), ann, bob, cid)
}

// Whoever leaves while another one is frozen has left for that one too.
func frozenWhileTheOthersLeave(t *testing.T) {
	_, nodes := three(t)
	ann, bob, cid := nodes[0], nodes[1], nodes[2]
	freeze(cid)
	ann.say("good night")
	bob.seesCount(slack(3*time.Second), 1, ": good night")
	ann.signal(syscall.SIGTERM) // within a second, whatever blocks
	ends(ann, slack(3*time.Second), 0)
	bob.sees(slack(3*time.Second), ` \* Ann@10.9.0.1 left$`)
	time.Sleep(lasting(15*time.Second, 9*time.Second))
	thaw(cid)
	cid.sees(slack(5*time.Second), `: good night$`)
	cid.sees(slack(5*time.Second), ` \* Ann@10.9.0.1 left$`)
	bob.sees(slack(5*time.Second), ` \* Cid@\S+ is back$`)
	cid.holds(map[string][]string{"Ann": {"good night"}})
	sameHistory(slack(3*time.Second), bob, cid)
}

// Beacons go on, but nothing that is sent over TCP arrives.
func deadTCPIsLostAndBack(t *testing.T) {
	l := newLAN(t)
	hosts := []*host{l.host("10.9.0.1/24"), l.host("10.9.0.2/24")}
	nodes := room(hosts, "Ann", "Bob")
	ann, bob := nodes[0], nodes[1]
	began := time.Now()
	for _, h := range hosts {
		h.drops("meta l4proto tcp")
	}
	ann.sees(slack(8*time.Second), ` \* Bob@10.9.0.2 lost$`)
	bob.sees(slack(8*time.Second)-time.Since(began), ` \* Ann@10.9.0.1 lost$`)
	ann.say("while away")
	for _, h := range hosts {
		h.drops("")
	}
	bob.sees(slack(9*time.Second), ` \* Ann@\S+ is back$`)
	ann.sees(slack(3*time.Second), ` \* Bob@\S+ is back$`)
	bob.seesCount(slack(3*time.Second), 1, ": while away")
}

// Networks of every kind.

// TestLabLinkLocalAddressesSuffice: two machines and a cable, with nothing but
// the addresses that IPv6 gives every card.
func TestLabLinkLocalAddressesSuffice(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.host("fe80::1/64"), l.host("fe80::2/64")
	ann, bob := a.node("Ann"), b.node("Bob")
	ann.sees(slack(time.Second), ` \* Bob@fe80::2%eth0 joined$`)
	bob.sees(slack(time.Second), ` \* Ann@fe80::1%eth0 joined$`)
	ann.complains(slack(time.Second), `^p2pchat: Ann at \[fe80::1%eth0\]:7700 in `)
	ann.say("Hello, Bob", "@Bob@fe80::2%eth0 one", "@fe80::2%eth0 two", "@[fe80::2%eth0]:7700 three", "/members")
	bob.sees(slack(time.Second), ` Ann@fe80::1%eth0: Hello, Bob$`)
	bob.seesCount(slack(time.Second), 3, ` Ann@fe80::1%eth0 -> me: (one|two|three)$`)
	ann.sees(slack(time.Second), ` \* member Bob@\[fe80::2%eth0\]:7700 since `)

	tom := b.node("Tom")
	port := strings.TrimSuffix(ann.sees(slack(2*time.Second), `Tom@\[fe80::2%eth0\]:\d+ joined$`), " joined")
	tom.sees(slack(2*time.Second), ` Ann@fe80::1(?:%eth0|\?): Hello, Bob$`) // it may have met Bob alone by then
	ann.say("@" + port[strings.LastIndex(port, "["):] + " just you")
	tom.sees(slack(time.Second), ` Ann@fe80::1%eth0 -> me: just you$`)
	time.Sleep(1200 * time.Millisecond) // the beacon after a second makes nothing worse
	connected(slack(time.Second), 3*2, a, b)
	undisturbed(ann, bob, tom)
	must(t, bob.cmd.Process.Kill())
	ann.sees(slack(time.Second), ` \* Bob@fe80::2%eth0 lost$`)
	tom.say("/exit")
	ann.sees(slack(time.Second), ` \* Tom@\[fe80::2%eth0\]:\d+ left$`)
}

// TestLabFamiliesMix: who has one family hears who has the other through who
// has both.
func TestLabFamiliesMix(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	four, six, both := l.host("10.9.0.1/24").withoutIPv6(), l.host("fe80::2/64"), l.host("10.9.0.3/24 fe80::3/64")
	ann, bob, cid := four.node("Ann"), six.node("Bob"), both.node("Cid")
	began := time.Now()
	cid.sees(slack(3*time.Second), ` \* Ann@10.9.0.1 joined$`)
	cid.sees(slack(3*time.Second), ` \* Bob@fe80::2%eth0 joined$`)
	ann.say("one")
	bob.say("two")
	cid.say("three")
	for _, p := range []*proc{ann, bob, cid} {
		for _, text := range []string{": one", ": two", ": three"} {
			p.seesCount(slack(3*time.Second)-time.Since(began), 1, text)
		}
	}
	connected(slack(3*time.Second), 2*2, four, six, both)
	sameHistory(slack(3*time.Second), ann, bob, cid)
	undisturbed(ann, bob, cid)
	if warnings := ann.err.String() + bob.err.String(); strings.Count(warnings, "\n") != 2 {
		t.Errorf("beside where they are, Ann and Bob say\n%s", warnings)
	}
}

// TestLabIPv4GoesFirst: where both families work, IPv4 is dialed and shown.
func TestLabIPv4GoesFirst(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	var hosts []*host
	var nodes []*proc
	wait, open := gate(t)
	for i := range 5 {
		h := l.host(fmt.Sprintf("fe80::%d/64 10.9.0.%d/24", i+1, i+1))
		hosts, nodes = append(hosts, h), append(nodes, h.nodeWith(fmt.Sprint("Node", i+1), nil, wait))
	}
	open()
	for i, p := range nodes {
		for j := range nodes {
			if i != j {
				p.sees(slack(2*time.Second), fmt.Sprintf(` \* Node%d@10.9.0.%d joined$`, j+1, j+1))
			}
		}
	}
	time.Sleep(1200 * time.Millisecond) // the beacon after a second makes nothing worse
	connected(slack(time.Second), 5*4, hosts...)
	for _, p := range nodes {
		if n := p.count(` joined$`); n != 4 {
			t.Errorf("%s shows that %d joined, want 4", p.name, n)
		}
	}
	undisturbed(nodes...)
}

// TestLabIPv6ServesWhereIPv4Fails: as long as one of the families works.
func TestLabIPv6ServesWhereIPv4Fails(t *testing.T) {
	for name, c := range map[string]struct{ a, b, rule string }{
		"refused":        {"10.9.0.1/24 fe80::1/64", "10.9.0.2/24 fe80::2/64", "meta nfproto ipv4 tcp flags & (syn|ack) == syn reject with tcp reset #"},
		"silent":         {"10.9.0.1/24 fe80::1/64", "10.9.0.2/24 fe80::2/64", "meta nfproto ipv4 meta l4proto tcp"},
		"other networks": {"10.9.1.1/24 fe80::1/64", "10.9.2.2/24 fe80::2/64", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			a, b := l.host(c.a), l.host(c.b)
			a.drops(c.rule)
			b.drops(c.rule)
			ann, bob := a.node("Ann"), b.node("Bob")
			ann.sees(slack(4*time.Second), ` \* Bob@fe80::2%eth0 joined$`)
			bob.sees(slack(4*time.Second), ` \* Ann@fe80::1%eth0 joined$`)
			connected(slack(time.Second), 2, a, b)
		})
	}
}

// TestLabOddNetworksOfIPv4 has hosts on one cable that take its network for
// different ones, and can reach each other all the same.
func TestLabOddNetworksOfIPv4(t *testing.T) {
	for name, c := range map[string]struct {
		a, b   string
		routes string // of both
	}{
		"a network in another": {"10.9.0.1/16", "10.9.0.2/24", ""},
		"addresses alone":      {"10.9.0.1/32", "10.9.0.2/32", "route add 10.9.0.0/24 dev eth0"},
		"two networks":         {"10.9.1.1/24", "10.9.2.2/24", "route add 10.9.0.0/16 dev eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			a, b := l.host(c.a).withoutIPv6(), l.host(c.b).withoutIPv6()
			if c.routes != "" {
				a.ip(c.routes)
				b.ip(c.routes)
			}
			ann, bob := a.node("Ann"), b.node("Bob")
			ann.sees(slack(time.Second), ` \* Bob@10.9.\d.2 joined$`)
			bob.sees(slack(time.Second), ` \* Ann@10.9.\d.1 joined$`)
			connected(slack(time.Second), 2, a, b)
		})
	}
}

// TestLabOneSubnetBehindTwoInterfaces: IPv4 has one way to a subnet, and the
// nodes beyond the other interface are reached over IPv6.
func TestLabOneSubnetBehindTwoInterfaces(t *testing.T) {
	t.Parallel()
	west, east := newLAN(t), newLAN(t)
	a, c := west.host("10.9.0.1/24"), east.host("10.9.0.1/24")
	b := west.host("10.9.0.2/24")
	east.plug(b, "10.9.0.3/24")
	ann, bob, cid := a.node("Ann"), b.node("Bob"), c.node("Cid")
	bob.sees(slack(6*time.Second), ` Ann@\S+ joined$`)
	bob.sees(slack(6*time.Second), ` Cid@\S+ joined$`)
	ann.say("from the west")
	cid.seesCount(slack(3*time.Second), 1, ": from the west")
	connected(slack(time.Second), 2*2, a, b, c)
	undisturbed(ann, bob, cid)
}

// TestLabBindTakesAnyAddress: a node is where -bind says.
func TestLabBindTakesAnyAddress(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a := l.host("10.9.0.1/24 fe80::1/64 fd00::1/64")
	b := l.host("10.9.0.2/24 fe80::2/64 fd00::2/64")
	bob := b.node("Bob").up()
	for bind, want := range map[string]string{
		"fe80::1%eth0": "fe80::1%eth0", "fd00::1": "fd00::1", "10.9.0.1": "10.9.0.1", "::ffff:10.9.0.1": "10.9.0.1",
	} {
		ann := a.node("Ann", "-bind", bind, "-wait", "5s")
		where := regexp.QuoteMeta(want)
		bob.sees(slack(2*time.Second), ` \* Ann@`+where+` joined$`)
		ann.sees(slack(2*time.Second), ` \* Bob@\S+ joined$`)
		ann.say("/exit")
		ends(ann, slack(time.Second), 0)
		bob.sees(slack(time.Second), ` \* Ann@`+where+` left$`)
	}
	home := []*proc{a.node("Cid", "-bind", "::1", "-port", "7799"), a.node("Dora", "-bind", "::1", "-port", "7799")}
	home[0].sees(slack(2*time.Second), ` \* Dora@\[?::1\S* joined$`)
	home[1].sees(slack(2*time.Second), ` \* Cid@\[?::1\S* joined$`)
	eve := b.node("Eve", "-bind", "fe80::2%eth0", "-port", "7801", "-peer", "[fe80::1%eth0]:7801")
	fay := a.node("Fay", "-bind", "fe80::1%eth0", "-port", "7801")
	eve.sees(slack(3*time.Second), ` \* Fay@fe80::1%eth0 joined$`)
	fay.sees(slack(3*time.Second), ` \* Eve@fe80::2%eth0 joined$`)
}

// TestLabZoneIsOfTheReader: a link-local address that a third tells is good
// on the link on which the third itself is reached.
func TestLabZoneIsOfTheReader(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b, c := l.host("fe80::1/64"), newHost(t), l.host("fe80::3/64")
	newLAN(t).plug(b, "10.77.0.1/24") // so that the link has another name there
	l.plug(b, "fe80::2/64")
	a.drops("meta l4proto udp ip6 saddr fe80::3")
	c.drops("meta l4proto udp ip6 saddr fe80::1")
	ann, cid := a.node("Ann").up(), c.node("Cid").up()
	bob := b.node("Bob")
	bob.sees(slack(2*time.Second), ` \* Ann@fe80::1%eth1 joined$`)
	bob.sees(slack(2*time.Second), ` \* Cid@fe80::3%eth1 joined$`)
	connected(slack(4*time.Second), 3*2, a, b, c)
	ann.say("/members")
	ann.sees(slack(time.Second), ` \* member Cid@\[fe80::3%eth0\]:7700 since `)
	cid.say("/members")
	cid.sees(slack(time.Second), ` \* member Ann@\[fe80::1%eth0\]:7700 since `)
}

// TestLabOddInterfaceNames: a zone breaks no line.
func TestLabOddInterfaceNames(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.host("fe80::1/64"), l.host("fe80::2/64")
	a.ip("link set eth0 down", "link set eth0 name lan(1)", "addr add fe80::1/64 dev lan(1) nodad", "link set lan(1) up")
	ann, bob := a.node("Ann"), b.node("Bob")
	ann.sees(slack(2*time.Second), ` \* Bob@fe80::2%\d+ joined$`)
	bob.sees(slack(2*time.Second), ` \* Ann@fe80::1%eth0 joined$`)
	who := strings.Fields(ann.screen()[0])[1]
	ann.say("@" + who + " hello")
	bob.sees(slack(time.Second), ` Ann@fe80::1%eth0 -> me: hello$`)
}

// TestLabHintNamesWhatCarriesNothing: where broadcasts don't pass, -peer helps.
func TestLabHintNamesWhatCarriesNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var commands []string
	for i := range 20 {
		commands = append(commands, fmt.Sprintf("link add veth%d type veth peer name htev%d", i, i), fmt.Sprintf("link set veth%d up", i),
			fmt.Sprintf("addr add 10.9.%d.1/24 dev veth%d", i, i))
	}
	h.ip(commands...)
	if _, err := os.Stat("/dev/net/tun"); err == nil {
		output(t, "", "ip", "-n", h.name, "tuntap", "add", "dev", "tun0", "mode", "tun")
		h.ip("addr add 10.8.0.1/24 dev tun0", "link set tun0 up")
	}
	hint := h.node("Ann").complains(slack(6*time.Second), "nobody here yet")
	if len(hint) > 400 || !strings.Contains(hint, " more") {
		t.Errorf("the hint is %d bytes long: %s", len(hint), hint)
	}
	if _, err := os.Stat("/dev/net/tun"); err == nil && !strings.Contains(hint, "not on tun0, where broadcasts don't pass: name a node there with -peer") {
		t.Errorf("the hint doesn't say what to do about tun0: %s", hint)
	}
}

// An interface comes back under its name and with its address, but the system
// numbers it anew, and link-local addresses go by that number.
func renumberedInterfaceIsUsed(t *testing.T) {
	l := newLAN(t)
	a, b := l.host("fe80::1/64"), newHost(t)
	l.plug(b, "fe80::2/64")
	ann, bob := a.node("Ann"), b.node("Bob")
	ann.sees(slack(3*time.Second), ` \* Bob@fe80::2%eth0 joined$`)
	bob.sees(slack(3*time.Second), ` \* Ann@fe80::1%eth0 joined$`)
	b.cables[0].remove()
	b.ip("link add other type veth peer name rehto") // takes the number
	ann.sees(slack(9*time.Second), ` \* Bob@fe80::2%eth0 lost$`)
	bob.say("all alone")
	began := time.Now()
	b.cables[0].insert()
	ann.sees(slack(5*time.Second), ` \* Bob@fe80::2%eth0 is back$`)
	ann.seesCount(slack(5*time.Second)-time.Since(began), 1, ": all alone")
	t.Logf("whole again after %v", time.Since(began))
	connected(slack(5*time.Second), 2, a, b)
}

// Of two interfaces in one subnet one loses its cable, and with it IPv4 loses
// its only way; IPv6 takes the other one.
func oneCableOfTwoMayGo(t *testing.T) {
	l := newLAN(t)
	a, b := l.host("10.9.0.1/24"), l.host("10.9.0.2/24")
	l.plug(b, "10.9.0.3/24")
	ann, bob := a.node("Ann"), b.node("Bob")
	ann.sees(slack(3*time.Second), ` \* Bob@\S+ joined$`)
	bob.sees(slack(3*time.Second), ` \* Ann@\S+ joined$`)
	time.Sleep(2 * time.Second) // until the addresses of IPv6 may be used
	b.cables[0].out()
	began := time.Now()
	ann.say("is one cable enough?")
	bob.say("it is")
	bob.seesCount(slack(9*time.Second), 1, `: is one cable enough\?`)
	ann.seesCount(slack(9*time.Second)-time.Since(began), 1, ": it is")
	t.Logf("whole again after %v", time.Since(began))
	undisturbed(ann, bob)
	b.cables[0].in()
	time.Sleep(3 * time.Second)
	ann.say("still there?")
	bob.seesCount(slack(3*time.Second), 1, `: still there\?`)
	connected(slack(8*time.Second), 2, a, b)
}

// The path drops what is larger than a tunnel takes, and says nothing of it.
func largePacketsThatVanishAreTold(t *testing.T) {
	l := newLAN(t)
	hosts := []*host{l.host("10.9.0.1/24"), l.host("10.9.0.2/24")}
	nodes := room(hosts, "Ann", "Bob")
	ann, bob := nodes[0], nodes[1]
	ann.say("small")
	bob.sees(slack(3*time.Second), `: small$`)
	hosts[1].drops("ip length > 1200")
	ann.say(strings.Repeat("large ", 1000))
	ann.complains(slack(20*time.Second), `^p2pchat: two connections in a row with Bob@10.9.0.2 have died while \d+ bytes were under way; .* MTU`)
	hosts[1].drops("")
	bob.sees(slack(10*time.Second), `: large large`)
	time.Sleep(2 * time.Second)
	if n := count(ann.err.lines(), `two connections in a row`); n != 1 {
		t.Errorf("Ann is told %d times", n)
	}
}

// What lacks of a machine is said on standard error, once.

func TestLabBindAddressThatIsGoneIsTold(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a := l.host("10.9.0.1/24")
	ann := a.node("Ann", "-bind", "10.9.0.1").up()
	a.ip("addr add 10.9.0.9/24 dev eth0", "addr del 10.9.0.1/24 dev eth0")
	ann.complains(slack(5*time.Second), `^p2pchat: this machine has the address 10.9.0.1 of -bind no longer`)
}

func TestLabDescriptorsThatAreUsedUpAreTold(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	few := func(c *exec.Cmd) {
		c.Args = slices.Insert(c.Args, len(netns{}.inside()), "sh", "-c", `ulimit -n 13; exec "$0" "$@"`)
	}
	ann := h.nodeWith("Ann", nil, few).up()
	for i := range 6 {
		h.node(fmt.Sprint("Node", i))
	}
	ann.complains(slack(10*time.Second), `^p2pchat: no more connections can be made: .*; raise the limit of open files`)
}
