// P2pchat is a text chat for a local network, without a server.
//
// Usage:
//
//	p2pchat [flags] NAME
//
// Everybody on the network who started it is there. What you type goes to all
// of them, and what anybody says is printed with the time at which it was
// said. A newcomer gets the whole history.
//
//	$ p2pchat Alex
//	2026-11-22 15:04:05 * Tim@192.168.0.7 joined
//	2026-11-22 15:04:09 Tim@192.168.0.7: Hello, Alex
//	2026-11-22 15:04:12 Alex (me): hi Tim
//
// A line that begins with / is a command (/help lists them), one that begins
// with @Tim goes to Tim alone. What is piped in is said line by line; at its
// end the program waits until it was heard, and its exit status tells whether
// it was: echo backup done | p2pchat Bot. Without any input (< /dev/null) it
// only listens.
package main

// This file is the only one that knows terminals, flags and signals. It reads
// lines and either posts them into the history or carries out what they
// command; it prints what the history gathers; and it says when to leave, which
// after the end of a pipe is when others have heard what was said. The rules of
// its voice: standard output carries lines of the chat and nothing else. Everything
// else that is to be said is one line on standard error: what is wrong, and then
// what to do. What nobody reads holds up nothing that is typed; a pipe and the
// network wait only when half of -keep is still to be printed. At a terminal both
// of them, and the line being typed, go through one owner of the screen.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	_ "time/tzdata" // for systems without zone files
	"unicode"
	"unicode/utf8"
)

const (
	aloneHint     = 5 * time.Second        // how long we are alone before we say what to try
	keyLimit      = 500 * time.Millisecond // how long the rest of a key, or of a reply of the terminal, may take
	maxReply      = 1000                   // bytes of a key, or of what a terminal tells of itself
	typedAhead    = 20 * time.Millisecond  // how long no key comes before we give the terminal back
	sttyLimit     = time.Second            // how long stty may run, which takes milliseconds
	screenWait    = 200 * time.Millisecond // how long we wait for a terminal that may take no output
	farewell      = 150 * time.Millisecond // how long we go on printing after a signal, reading after /exit, or speaking at the end
	comingWait    = 500 * time.Millisecond // once everybody has what we said, for nodes that are about to connect
	maxSecret     = 1024                   // bytes
	maxCandidates = 10                     // nodes that are listed where it isn't clear who gets a direct message
	maxUnread     = 1 << 20                // bytes that wait for standard error
	outputStall   = 300 * time.Millisecond // a terminal that we leave counts as stopped if nothing was printed for once to twice as long
	maxPiece      = 16 << 10               // bytes that are written to a terminal at once, but for the rest of a line
	maxOwn        = 200                    // lines entered earlier that Up brings back
	prompt        = "> "
	smallestKeep  = 64 << 10 // bytes
	memoryBeside  = 12 << 20 // bytes beside 1.25 times -keep, within which the garbage collector holds the program; 8 MiB more are the program itself
)

const usageText = `usage: p2pchat [flags] NAME

  p2pchat Alex                       chat as Alex with everybody on the network
  echo backup done | p2pchat Bot     say it, wait until it was heard, leave
  p2pchat Log < /dev/null | grep -i error   listen

flags, before or after NAME:
  -bind IP       listen on and announce from this address only (127.0.0.1: this
                 machine only; default: every interface)
  -port N        UDP port of the room; TCP uses it too when it is free (7700)
  -peer IP[:PORT]   a node to reach where broadcasts don't; may be repeated
  -peers FILE    a table of such nodes: lines NAME IP[:PORT]
  -idle D        close a connection to a node of the table that carried no chat
                 for D; reopen it when there is something to send
  -secret FILE   passphrase of a private room; P2PCHAT_SECRET serves too
  -history FILE  keep the history in FILE across launches
  -keep SIZE     history held: 64KiB, 256MiB, 1GiB or bytes (256MiB)
  -wait D        at the end of input, how long to wait to be heard (3s)
  -verbatim      every input line is a message; no commands
  -v             log what the network does on standard error
  -version, -h   print the version, or this

exit status: 0 left in order; 1 could not do its job (port taken, nobody heard
the piped messages, a piped line was refused, ...); 2 wrong usage
`

var helpText = []string{
	"@WHO text: to WHO alone; WHO is a name, name@ip, name@ip:port, ip or ip:port",
	"NAME/text: the same, with a name",
	"/members: who is connected",
	"/history [N]: everything that was said, or the last N lines of it",
	"/name NEW: change your name",
	"/hooray: greet everybody",
	"/help: this",
	"/exit, /quit: leave; at a terminal exit and quit do too",
	"//text and @@text send a line that begins with / or @",
}

const greeting = "hooray, everybody!"

const byteOrderMark = "\ufeff" // which some editors put at the beginning of a text

// ---- what the user wants

type config struct {
	name     string
	bind     netip.Addr
	port     uint16
	targets  []*target
	idle     time.Duration
	secret   string
	warning  string // about the secret
	history  string
	keep     int64
	wait     time.Duration
	verbatim bool
	verbose  bool
}

// A usageError is the user's mistake: exit status 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// parseArgs reads the command line. It returns flag.ErrHelp after -h or
// -version, when what was asked for was shown, and a usageError if the user is wrong.
func parseArgs(args []string, stdout io.Writer) (*config, error) {
	cfg := &config{keep: 256 << 20, wait: 3 * time.Second}
	fs := flag.NewFlagSet("p2pchat", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	port := fs.Uint("port", 7700, "")
	secret, peers := fs.String("secret", "", ""), fs.String("peers", "", "")
	var addrs []string
	fs.Func("peer", "", func(s string) error { addrs = append(addrs, s); return nil })
	fs.TextVar(&cfg.bind, "bind", netip.Addr{}, "")
	fs.DurationVar(&cfg.idle, "idle", 0, "")
	fs.StringVar(&cfg.history, "history", "", "")
	fs.Func("keep", "", func(s string) (err error) { cfg.keep, err = parseSize(s); return err })
	fs.DurationVar(&cfg.wait, "wait", cfg.wait, "")
	fs.BoolVar(&cfg.verbatim, "verbatim", false, "")
	fs.BoolVar(&cfg.verbose, "v", false, "")
	showVersion := fs.Bool("version", false, "")
	var names []string
	for len(args) > 0 { // flags may stand before and after NAME
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			io.WriteString(stdout, usageText)
			return nil, err
		} else if err != nil {
			return nil, usagef("%v; p2pchat -h lists the flags", err)
		}
		args = fs.Args()
		if len(args) > 0 {
			names, args = append(names, args[0]), args[1:]
		}
	}
	if *showVersion {
		info, _ := debug.ReadBuildInfo()
		fmt.Fprintln(stdout, "p2pchat", info.Main.Version)
		return nil, flag.ErrHelp
	}
	cfg.bind = plainAddr(cfg.bind)
	var empty string // of a value such as "$UNSET", which would mean the contrary of what was wanted
	fs.Visit(func(f *flag.Flag) {
		if slices.Contains([]string{"bind", "secret", "peers", "history"}, f.Name) && f.Value.String() == "" {
			empty = f.Name
		}
	})
	switch {
	case empty != "":
		return nil, usagef("the value of -%s is empty; give one, or leave the flag out", empty)
	case len(names) == 0:
		return nil, usagef("a name is missing; try p2pchat Alex, or p2pchat -h")
	case len(names) > 1:
		return nil, usagef("one name is enough, there are %d: %q; put quotes round a name with spaces", len(names), names)
	case validOwnName(names[0]) != nil:
		return nil, usagef("%q is no name: %v; choose another", names[0], validOwnName(names[0]))
	case *port < 1 || *port > 65535:
		return nil, usagef("there is no port %d; choose one from 1 to 65535", *port)
	case cfg.bind.IsUnspecified() || cfg.bind.IsMulticast():
		return nil, usagef("-bind %v is no address of one interface; give one, or leave -bind out for all of them", cfg.bind)
	case lacksZone(cfg.bind):
		return nil, usagef("-bind %v: %w", cfg.bind, errNoZone)
	case cfg.wait < 0 || cfg.idle < 0:
		return nil, usagef("a duration can't be negative; write it as 3s or 500ms")
	}
	cfg.name, cfg.port = names[0], uint16(*port)
	for _, s := range addrs {
		a, err := parseAddr(s, cfg.port)
		if err != nil {
			return nil, usagef("-peer: %v", err)
		}
		cfg.targets = append(cfg.targets, &target{route: route{addr: a}})
	}
	return cfg, cmp.Or(cfg.readPeers(*peers), cfg.readSecret(*secret))
}

// parseSize reads 64KiB, 256MiB, 1GiB, or plain bytes.
func parseSize(s string) (int64, error) {
	digits, unit := s, int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB"} {
		if d, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = d, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > 1<<50/unit || n*unit < smallestKeep {
		return 0, errors.New("want a size such as 64KiB, the least, 256MiB, 1GiB or plain bytes")
	}
	return n * unit, nil
}

var errNoZone = errors.New("every interface has such addresses; write the name of the one behind it, as in fe80::1%eth0")

// parseAddr reads IP or IP:PORT.
func parseAddr(s string, port uint16) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 {
		var ip netip.Addr
		ip, err = netip.ParseAddr(s)
		a = netip.AddrPortFrom(ip, port)
	}
	a = netip.AddrPortFrom(plainAddr(a.Addr()), a.Port())
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is not an address; write it as 192.168.0.7 or 192.168.0.7:7700, fe80::1%%eth0 or [fe80::1%%eth0]:7700", s)
	case lacksZone(a.Addr()):
		return a, fmt.Errorf("%s: %w", s, errNoZone)
	}
	return a, nil
}

func (cfg *config) readPeers(file string) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read -peers: %w; check the path", err)
	}
	table, err := parsePeersFile(string(b), cfg.port)
	if err != nil {
		return usagef("%s: %w; write NAME IP[:PORT]", file, err)
	}
	cfg.targets = append(cfg.targets, table...)
	return nil
}

func parsePeersFile(content string, port uint16) (table []*target, err error) {
	for i, line := range strings.Split(strings.TrimPrefix(content, byteOrderMark), "\n") {
		line, _, _ = strings.Cut(" "+strings.ReplaceAll(line, "\t", " "), " #")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		at := strings.LastIndexByte(line, ' ') + 1
		name := strings.TrimSpace(line[:at])
		a, err := parseAddr(line[at:], port)
		if err = cmp.Or(err, validName(name)); err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", i+1, line, err)
		}
		table = append(table, &target{route: route{addr: a}, alias: name})
	}
	return table, nil
}

// readSecret takes the passphrase from the file, or from the environment.
func (cfg *config) readSecret(file string) error {
	secret, set := os.LookupEnv("P2PCHAT_SECRET")
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("cannot read -secret: %w; check the path", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, 2*maxSecret))
		if err != nil {
			return fmt.Errorf("cannot read -secret: %w; check the path", err)
		}
		secret, set = string(b), true
		if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o044 != 0 && runtime.GOOS != "windows" {
			cfg.warning = fmt.Sprintf("others on this machine can read %s; chmod 600 it", file)
		}
	}
	if strings.HasPrefix(secret, "\xff\xfe") || strings.HasPrefix(secret, "\xfe\xff") {
		return usagef("the secret is written in UTF-16, which would be another secret than the same text in UTF-8; save it as UTF-8")
	}
	secret, ended := strings.CutSuffix(strings.TrimPrefix(secret, byteOrderMark), "\n")
	if ended || file == "" { // $(cat FILE) has taken the line feed alone
		secret = strings.TrimSuffix(secret, "\r")
	}
	switch {
	case set && secret == "":
		return usagef("the secret is empty; write a passphrase into it, or leave it out for the open room")
	case len(secret) > maxSecret:
		return usagef("the secret is too long; use at most %d bytes", maxSecret)
	}
	cfg.secret = secret
	return nil
}

// ---- the program

func main() { os.Exit(program(os.Args[1:])) }

// An app is the program as it runs.
type app struct {
	cfg      *config
	n        *node
	h        *history
	v        *voice
	input    inputKind
	screen   *screen        // standard output, and the input where typing is set
	progress atomic.Bool    // something was printed
	typing   bool           // the input is typed into the screen's last row
	said     atomic.Int64   // messages of ours
	directs  atomic.Int64   // direct messages of ours
	refused  atomic.Int64   // lines that were refused
	ended    chan struct{}  // closed at the end of the input
	saving   sync.WaitGroup // what appends to the history file
}

func program(args []string) int {
	signal.Ignore(syscall.SIGPIPE) // a closed standard output is an error to handle, not the end
	runtime.GOMAXPROCS(1)          // handing lines over to a second core costs a third of the throughput
	s := screenOf(os.Stdin, os.Stdout)
	v := newVoice(s.beside(os.Stderr))
	defer v.close()
	cfg, err := parseArgs(args, os.Stdout)
	if err == nil {
		a := &app{cfg: cfg, v: v, screen: s, input: kindOf(os.Stdin), ended: make(chan struct{})}
		return a.run()
	}
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	v.say("%v", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

// run brings the node up, serves until there is a reason to leave, and
// returns the exit status.
func (a *app) run() int {
	debug.SetMemoryLimit(a.cfg.keep + a.cfg.keep/4 + memoryBeside)
	interrupted := a.untilSignal()
	begun := context.AfterFunc(interrupted, func() { os.Exit(0) }) // to load a history may take long, and nothing was said yet
	defer begun()                                                  // of what fails, it isn't the exit status
	key := newRoomKey(a.cfg.secret)
	listener, err := listenTCP(a.cfg.bind, a.cfg.port)
	if err != nil {
		return a.fail("cannot listen: %v; choose another address with -bind", err)
	}
	d, err := openDiscovery(a.cfg.bind, a.cfg.port, key)
	if err != nil {
		return a.fail("cannot listen on UDP port %d: %v; choose another with -port", a.cfg.port, err)
	}
	_, private, _ := ed25519.GenerateKey(nil)
	tcpPort := uint16(listener.Addr().(*net.TCPAddr).Port)
	own := func() netip.AddrPort { return netip.AddrPortFrom(d.ownAddr(), tcpPort) }
	a.h = newHistory(private, a.cfg.keep, time.Now, own)
	coming, end := context.WithCancel(context.Background()) // ends when nothing more comes to be printed or saved
	defer end()
	if err := a.openHistory(coming, key.mark); err != nil {
		return a.fail("cannot use the history %s: %v; choose another file with -history", a.cfg.history, err)
	}
	begun()
	a.n = newNode(private, a.h, key, a.cfg.name, tcpPort, a.cfg.port)
	a.n.targets, a.n.idle, a.n.patience = a.cfg.targets, a.cfg.idle, a.cfg.wait
	a.n.announceSoon, a.n.warn = d.announceSoon, a.v.say
	if a.cfg.bind.IsValid() {
		a.n.dial = (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.cfg.bind, 0))}).DialContext
	}
	if a.cfg.verbose {
		a.n.logf = a.v.say
	}
	a.typing = a.screen.open()
	defer a.screen.close()
	a.screen.row.completions = a.completions
	a.banner(own())

	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	printed, endPrint := context.WithCancelCause(context.Background())
	go func() { endPrint(a.print(coming, printed)) }()
	var network sync.WaitGroup
	network.Go(func() { a.n.run(ctx, listener) })
	network.Go(func() { d.run(ctx, a.n) })
	go a.read(interrupted) // not waited for: nothing wakes a blocked read of a terminal
	time.AfterFunc(aloneHint, func() { a.hint(d) })

	a.awaitEnd(interrupted, printed)
	a.screen.stop()
	leave()
	network.Wait()
	end()
	context.AfterFunc(interrupted, func() {
		time.AfterFunc(farewell, func() { endPrint(nil) }) // a pipe that is read slowly may take for ever
	})
	a.awaitPrinted(printed, endPrint)
	a.saving.Wait()
	if err := context.Cause(printed); err != context.Canceled && !isClosed(err) {
		return a.fail("cannot write to standard output: %v; what comes would be lost", err)
	}
	return a.verdict()
}

// untilSignal returns a context that ends with the first signal to leave. A
// second one gives the terminal back and ends the program at once.
func (a *app) untilSignal() context.Context {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	signals = slices.DeleteFunc(signals, signal.Ignored) // nohup, or the background of a script
	c := make(chan os.Signal, 8)
	signal.Notify(c, append(signals, windowChanged)...)
	ctx, interrupt := context.WithCancel(context.Background())
	go func() { // until the program ends
		for sig := range c {
			switch {
			case sig == windowChanged:
				a.screen.resize()
			case ctx.Err() == nil:
				interrupt()
			default:
				a.screen.close()
				os.Exit(1)
			}
		}
	}()
	return ctx
}

func (a *app) fail(format string, args ...any) int {
	a.v.say(format, args...)
	return 1
}

// banner says who and where we are, and what is odd about the secret or the time zone.
func (a *app) banner(own netip.AddrPort) {
	if a.cfg.warning != "" {
		a.v.say("%s", a.cfg.warning)
	}
	room := "the open room"
	if a.cfg.secret != "" {
		room = "a private room"
	}
	place := own.String()
	if !own.IsValid() {
		place = fmt.Sprintf("port %d of this host, which has no network yet,", own.Port())
	}
	a.v.say("%s at %s in %s of port %d; /help lists the commands", a.cfg.name, place, room, a.cfg.port)
	// Package time takes a zone that it doesn't know for UTC.
	tz := os.Getenv("TZ")
	if time.Local.String() == "UTC" && !slices.Contains([]string{"", "UTC"}, strings.TrimPrefix(tz, ":")) {
		a.v.say("TZ names no time zone: %q, so times are UTC; set it to a name such as Europe/Berlin", tz)
	}
}

// hint says what to try when nobody was found.
func (a *app) hint(d *discovery) {
	if a.n.alone() {
		a.v.say("nobody here yet, announced to %s; check that others run p2pchat with the same -port and secret and that no firewall stops UDP and TCP port %d, or name a node with -peer",
			d.announced(), a.cfg.port)
	}
}

// openHistory loads the history file and sees to it that what comes until
// ctx ends is appended to it, behind the room's mark.
func (a *app) openHistory(ctx context.Context, room nodeID) error {
	if a.cfg.history == "" {
		return nil
	}
	if info, err := os.Stat(a.cfg.history); err == nil && !info.Mode().IsRegular() { // a FIFO has no end
		return errors.New("it is no file")
	}
	f, err := os.OpenFile(a.cfg.history, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	damaged, err := a.h.load(f, room)
	if err != nil {
		f.Close()
		return err
	}
	if damaged > 0 {
		a.v.say("%d bytes of %s are damaged and were left out; the rest is there", damaged, a.cfg.history)
	}
	var first []byte
	if info, err := f.Stat(); err == nil && info.Size() < int64(len(fileHeader)) {
		first = []byte(fileHeader[info.Size():])
	}
	first = appendRecord(first, record{typ: recordRoom, author: room})
	c := a.h.newCursor()
	a.saving.Go(func() {
		defer f.Close()
		a.h.save(ctx, c, first, wholly{f}, func(err error) { // has told of any error by the time save returns it
			if err != nil {
				a.v.say("cannot write the history: %v; the chat goes on without it, until there is room again", err)
			} else {
				a.v.say("the history is written again; what -keep has dropped meanwhile is not in it")
			}
		})
	})
	return nil
}

// A wholly is a file to which Write appends all or nothing, if the system allows it.
type wholly struct{ *os.File }

func (f wholly) Write(b []byte) (n int, err error) {
	if n, err = f.File.Write(b); err == nil || n == 0 {
		return n, err
	}
	if info, err := f.Stat(); err == nil {
		f.Truncate(info.Size() - int64(n)) // what can't be cut off shows as damage
	}
	return 0, err
}

// awaitEnd waits until a signal comes, printing ends or the input ends. After the end
// of a pipe it waits until what was piped in has been heard, and says who lags behind.
func (a *app) awaitEnd(interrupted, printed context.Context) {
	select {
	case <-interrupted.Done():
	case <-printed.Done():
	case <-a.ended:
		if a.input != fromPipe || a.said.Load()+a.directs.Load() == 0 {
			return
		}
		best, behind := a.n.waitDelivered(interrupted)
		if lines, all := a.h.linesAbove(best); lines == 0 && all && len(behind) > 0 {
			a.v.say("heard, but not yet by %s; they get it from the others, as far as these still hold it", strings.Join(behind, ", "))
		}
	}
}

// verdict returns the exit status, now that the node has ended. If a pipe held
// messages that nobody heard, it says how many.
func (a *app) verdict() int {
	lines, all := a.h.linesAbove(a.n.bestAck)
	least, said := "", a.said.Load()
	if !all {
		lines, least = max(lines, 1), "at least "
	}
	switch {
	case a.input != fromPipe:
		return 0
	case said > 0 && lines > 0:
		return a.fail("nobody heard %s%d of %d messages; check that somebody is there, or wait longer with -wait", least, lines, said)
	}
	return min(int(a.refused.Load())+a.n.undelivered, 1)
}

// waitDelivered returns when what we said was heard: at least one node has it, and
// so has every node that is connected. Those that are about to connect get half a
// second for that. It gives up when nobody has acknowledged anything for patience, or
// patience after the first node has all; but whenever a direct message is acknowledged,
// patience begins anew. It returns the number of our newest post that anybody has, and
// the names of those who lag behind.
func (n *node) waitDelivered(ctx context.Context) (best uint64, behind []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	goal := n.history.about(n.id).last
	if goal == 1 {
		goal = 0 // nothing but that we joined, which nobody waits for
	}
	n.takenAt = time.Now()
	for since := n.takenAt; ; { // when somebody last lacked something
		now, waiting := time.Now(), 0
		behind = behind[:0]
		for id, ct := range n.contacts {
			waiting += len(ct.out)
			if c := n.conns[id]; goal > 0 && ct.isReopening() || c != nil && c.ackedLocked() < goal {
				behind = append(behind, n.label(id))
			}
		}
		all := n.bestAck >= goal && len(behind) == 0 && waiting == 0
		if !all {
			since = now
		}
		if all && (goal == 0 || !n.expectingLocked() || now.Sub(since) >= comingWait) || now.Sub(n.takenAt) >= n.patience || ctx.Err() != nil {
			slices.Sort(behind)
			return n.bestAck, behind
		}
		n.waitLocked(ctx)
	}
}

// waitMet returns when we are connected with everybody who is known to be here, and
// with somebody at least, or when ctx ends.
func (n *node) waitMet(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for ctx.Err() == nil && (len(n.conns) == 0 || n.expectingLocked()) {
		n.waitLocked(ctx)
	}
}

// linesAbove returns how many lines stand in our own posts above number, and
// whether these are all: others may have been dropped.
func (h *history) linesAbove(number uint64) (n int, all bool) {
	events, first := h.posts(h.self, number+1, math.MaxInt)
	for _, e := range events {
		if e.kind == kindLines {
			n += e.lines()
		}
	}
	return n, first == number+1
}

// ---- printing

// print prints the log as it grows, until ctx ends and all is printed, writing
// fails, or printed ends. When nobody reads standard output any more, a program
// whose input is still to be delivered goes on without printing. A terminal gets
// a few whole lines at a time, so that it can be given back between two lines.
func (a *app) print(ctx, printed context.Context) error {
	l := newLiner(a.h, a.cfg.port)
	w := io.Writer(a.screen)
	var out []byte
	return a.h.follow(ctx, a.h.printer, func(b batch) error {
		out = out[:0]
		for _, e := range b {
			out = l.appendEvent(out, e)
		}
		for rest := out; len(rest) > 0; {
			piece := rest
			if a.screen.isTerminal {
				full := min(maxPiece, len(rest)-1)
				piece = rest[:full+bytes.IndexByte(rest[full:], '\n')+1]
			}
			rest = rest[len(piece):]
			_, err := w.Write(piece)
			if a.input == fromPipe && isClosed(err) {
				w, err = io.Discard, nil
			}
			if err = cmp.Or(err, printed.Err()); err != nil {
				return err
			}
			a.progress.Store(true)
		}
		return nil
	})
}

// newLiner returns a liner for the events of h.
func newLiner(h *history, port uint16) *liner {
	return &liner{self: h.self, port: port, reached: func(id nodeID) *netip.AddrPort { return h.about(id).reached }}
}

// awaitPrinted waits until all is printed. It gives up when standard output is a
// terminal that takes nothing.
func (a *app) awaitPrinted(printed context.Context, endPrint context.CancelCauseFunc) {
	for a.progress.Store(true); printed.Err() == nil; {
		select {
		case <-printed.Done():
		case <-time.After(outputStall):
			if !a.progress.Swap(false) && a.screen.isTerminal {
				endPrint(nil)
			}
		}
	}
}

// isClosed says whether a write failed because nobody reads any more.
func isClosed(err error) bool {
	const brokenPipe, noData = syscall.Errno(109), syscall.Errno(232) // EPIPE in the words of Windows
	errno, _ := errors.AsType[syscall.Errno](err)
	return errno == syscall.EPIPE || runtime.GOOS == "windows" && (errno == brokenPipe || errno == noData)
}

// ---- reading

type inputKind int

const (
	fromPipe inputKind = iota
	fromTerminal
	fromNull
)

// kindOf tells what a standard stream is. The null device looks like a
// terminal but for its identity.
func kindOf(f *os.File) inputKind {
	info, err := f.Stat()
	null, _ := os.Stat(os.DevNull)
	switch {
	case err != nil || os.SameFile(info, null):
		return fromNull
	case info.Mode()&os.ModeCharDevice == 0:
		return fromPipe
	}
	return fromTerminal
}

// An entry is a line of the input.
type entry struct {
	line   []byte // without its line end; nil if it is too long; valid until the next is read
	length int    // bytes
	asIs   bool   // pasted text, which is no command whatever it holds
	more   bool   // the next is there already
}

// read reads the input to its end. Lines that are there together are one post.
func (a *app) read(ctx context.Context) {
	if a.input == fromNull {
		return // a listener stays
	}
	defer func() {
		close(a.ended)
		if a.typing {
			a.screen.stop()
			a.screen.next() // reads away what is typed until we have left
		}
	}()
	r, next := a.entries()
	var text []byte // lines that are still to be posted
	lines := 0      // and how many they are
	post := func() {
		if len(text) > 0 {
			if a.input == fromPipe {
				a.h.waitRoom(ctx, true)
			}
			a.said.Add(int64(lines))
			a.n.say(kindLines, text[:len(text)-1])
			text, lines = text[:0], 0
		}
	}
	met := false              // we have waited until we know who is here
	name := len(a.n.myName()) // bytes of the name that posts bear
	for {
		e, err := next()
		if err != nil && e.length == 0 {
			if err != io.EOF && a.input == fromPipe {
				a.refuse("cannot read standard input: %v; what came before is said", err)
			}
			return
		}
		if a.input == fromPipe && !met && !a.cfg.verbatim && maybePrivate(e.line) { // it may name somebody that we don't know yet
			met = true
			post()
			limited, cancel := context.WithTimeout(ctx, a.cfg.wait)
			a.n.waitMet(limited)
			cancel()
		}
		message, ok := a.message(e.line)
		if e.asIs && e.line != nil && !a.isAddressed(e.line) {
			message, ok = e.line, true
		}
		switch {
		case ok:
			if size := len(text) + len(message); size > maxLine || isCrowded(lines+1, name, size) {
				post()
			}
			text = append(append(text, valid(message)...), '\n')
			lines++
		case e.length > 0:
			post() // what a command does comes after what was said before it
			if !a.command(ctx, e.line, e.length) {
				if a.input == fromPipe && goesOn(r) {
					a.refuse("what stands behind %s in the input was not read; take that line out, or write /%s to say it", e.line, e.line)
				}
				return
			}
			name = len(a.n.myName())
		}
		if !e.more {
			post()
			runtime.Gosched() // the writers go first: worth a quarter of the latency, as the latency figure shows
		}
	}
}

// entries returns a function that returns the next line of the input, and the reader
// that it takes them from unless they are typed into the screen. It passes over a
// byte order mark at the beginning, and tells the user if a pipe holds nothing at all.
func (a *app) entries() (r *bufio.Reader, next func() (entry, error)) {
	stdin := io.MultiReader(os.Stdin) // never reads on after the end; a terminal would, after Ctrl-D
	r = bufio.NewReaderSize(stdin, 2*maxLine)
	if a.typing {
		return r, a.typed()
	}
	if b, _ := r.Peek(1); string(b) == byteOrderMark[:1] { // a line may be shorter than the mark
		if b, _ := r.Peek(len(byteOrderMark)); string(b) == byteOrderMark {
			r.Discard(len(b))
		}
	}
	if _, err := r.Peek(1); err == io.EOF && a.input == fromPipe {
		a.v.say("the input is empty, so there is nothing to say; to listen, start it with < /dev/null")
	}
	return r, func() (entry, error) { return readLine(r) }
}

// goesOn says whether a line that is not empty stands in r. Of a pipe that is
// still open, it waits a moment for one.
func goesOn(r *bufio.Reader) bool {
	var err error
	ended := within(farewell, func() {
		c := byte('\n')
		for err == nil && (c == '\n' || c == '\r') {
			c, err = r.ReadByte()
		}
	})
	return ended && err == nil
}

// readLine returns the next line of r. Of a line that is too long it tells the
// length alone.
func readLine(r *bufio.Reader) (e entry, err error) {
	line, more, err := r.ReadLine()
	e.length = len(line)
	for more && err == nil {
		line, more, err = r.ReadLine()
		e.length += len(line)
	}
	if e.length <= maxLine {
		e.line = line
	}
	rest, _ := r.Peek(r.Buffered())
	e.more = bytes.IndexByte(rest, '\n') >= 0
	return e, err
}

// typed returns a function that returns, one after the other, the lines that are
// typed into the screen's last row. Where several lines were pasted there, each is
// said as it stands; but behind @WHO they are one line, so that all of it goes to
// WHO alone.
func (a *app) typed() func() (entry, error) {
	var lines []string
	pasted := false
	return func() (entry, error) {
		for len(lines) == 0 {
			row, err := a.screen.next()
			if err != nil {
				return entry{}, err
			}
			lines = strings.FieldsFunc(row, func(r rune) bool { return r == '\n' })
			pasted = strings.Contains(row, "\n")
			if one := strings.Join(lines, " "); a.isAddressed([]byte(one)) {
				lines, pasted = []string{one}, false
			}
		}
		e := entry{line: []byte(lines[0]), length: len(lines[0]), asIs: pasted, more: len(lines) > 1}
		lines = lines[1:]
		if e.length > maxLine {
			e.line = nil
		}
		return e, nil
	}
}

// completions returns what a line may begin with that isn't plain text.
func (a *app) completions() []string {
	all := []string{"/members", "/history ", "/name ", "/hooray", "/help", "/exit", "/quit"}
	here := a.n.members()
	for i, m := range here {
		switch {
		case m.id == (nodeID{}): // not here
		case i > 0 && here[i-1].name == m.name || i+1 < len(here) && here[i+1].name == m.name:
			all = append(all, fmt.Sprintf("@%s@%v ", m.name, m.addr))
		default:
			all = append(all, "@"+m.name+" ")
		}
	}
	return all
}

// valid returns line as UTF-8, with U+FFFD for each byte that is not, where
// bytes.ToValidUTF8 has one for many.
func valid(line []byte) []byte {
	if utf8.Valid(line) {
		return line
	}
	return []byte(string([]rune(string(line))))
}

// message returns what line says to everybody, if it is such a line.
func (a *app) message(line []byte) ([]byte, bool) {
	switch {
	case len(line) == 0:
		return nil, false
	case a.cfg.verbatim:
		return line, true
	case line[0] == '/' || line[0] == '@':
		return line[1:], len(line) > 1 && line[1] == line[0]
	case a.input == fromTerminal && (string(line) == "exit" || string(line) == "quit"):
		return nil, false
	}
	return line, !a.isAddressed(line)
}

// maybePrivate says whether line can be meant for somebody alone, as far as can be
// told without knowing who is here.
func maybePrivate(line []byte) bool {
	if i := bytes.IndexByte(line, '/'); i > 0 && i <= 2*maxNameBytes && line[i-1] != ' ' && !bytes.ContainsAny(line[:i], forbidden) {
		return true
	}
	if len(line) > 0 && line[0] > ' ' && line[0] < 0x7f { // most lines; what follows would make a piped line half as dear again
		return line[0] == '@'
	}
	return hasAt(string(bytes.TrimLeftFunc(line, isBlank)))
}

// hasAt says whether s begins with @, or with the wide @ of East Asian keyboards.
func hasAt(s string) bool { return strings.HasPrefix(s, "@") || strings.HasPrefix(s, "\uff20") }

// isBlank says whether r is white space, or shows as nothing.
func isBlank(r rune) bool { return unicode.IsSpace(r) || isHidden(r) }

// isAddressed says whether line is meant for somebody alone, or looks so much
// like it that it must not go to everybody: NAME/text, where NAME is known or
// alike to a known one, and @WHO behind white space, or behind a wide @, where
// WHO is alike to one who is here or in the table.
func (a *app) isAddressed(line []byte) bool {
	if a.cfg.verbatim || !maybePrivate(line) {
		return false
	}
	s := string(line)
	if bare := strings.TrimLeftFunc(s, isBlank); hasAt(bare) {
		return a.resembled(bare) != ""
	}
	name := whoIn(s)
	return a.h.bore(name) || slices.ContainsFunc(a.cfg.targets, func(t *target) bool { return t.alias != "" && isAlike(name, t.alias) })
}

// whoIn returns WHO of WHO/text. White space at its ends that isn't a space is no
// part of it, as nobody sees the difference.
func whoIn(s string) string {
	name, _, _ := strings.Cut(s, "/")
	return strings.TrimFunc(name, func(r rune) bool { return isBlank(r) && r != ' ' })
}

// resembled returns what WHO is, or nearly is, in s, which is @WHO text or WHO/text:
// a name or an address of somebody who is here, or a name of the table. It returns
// "" if WHO is like none of them. A name doesn't end where a word goes on.
func (a *app) resembled(s string) string {
	who, at := strings.CutPrefix(fold(s), "@")
	if !at {
		who = fold(whoIn(s))
	}
	for _, m := range a.n.members() {
		forms := append(m.aliases, m.name)
		if at && m.id != (nodeID{}) {
			forms = append(forms, m.addr.Addr().String())
		}
		for _, form := range forms {
			rest, ok := cutAlike(who, fold(form))
			next, _ := utf8.DecodeRuneInString(rest)
			if ok && form != "" && (rest == "" || at && !unicode.In(next, unicode.L, unicode.M, unicode.N)) {
				return form
			}
		}
	}
	return ""
}

// command carries out a line that is no message. After a line that says to leave it
// returns false.
func (a *app) command(ctx context.Context, line []byte, length int) bool {
	if len(line) == 0 {
		a.refuse("a line of %d bytes is too long; send at most %d at a time", length, maxLine)
		return true
	}
	s := string(valid(line))
	word, rest, _ := strings.Cut(s, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case (word == "/exit" || word == "/quit" || word == "exit" || word == "quit") && rest == "":
		return false
	case word == "/members" && rest == "":
		a.members()
	case word == "/history":
		a.history(rest)
	case word == "/name":
		if err := validOwnName(rest); err != nil {
			a.refuse("%q is no name: %v; try /name Alex", rest, err)
		} else if rest != a.n.myName() {
			a.n.say(kindRename, []byte(rest))
		}
	case word == "/hooray" && rest == "":
		a.said.Add(1)
		a.n.say(kindLines, []byte(greeting))
	case word == "/help" && rest == "":
		a.show(answer(helpText...))
	case s[0] == '/':
		a.refuse("unknown command %q; /help lists the commands, and a second / before it sends it as a line", word)
	default:
		a.direct(ctx, s)
	}
	return true
}

func (a *app) refuse(format string, args ...any) {
	a.refused.Add(1)
	a.v.say(format, args...)
}

func (a *app) show(b batch) {
	if !a.h.show(b) {
		a.refuse("nobody reads what was asked for already; read it first")
	}
}

func (a *app) members() {
	lines := []string{fmt.Sprintf("member %s (me)", a.n.myName())}
	for _, m := range append(a.n.members(), a.n.beyond()...) {
		how := "" // it is here
		switch {
		case m.id == (nodeID{}):
			continue // it is only named in the table
		case m.idle:
			how = "idle "
		case m.through != "":
			m.mark, how = "?", "through "+m.through+" "
		}
		lines = append(lines, fmt.Sprintf("member %s@%v%s %ssince %s", m.name, m.addr, m.mark, how, m.since.Format(stampLayout)))
	}
	a.show(answer(lines...))
}

func (a *app) history(arg string) {
	events := a.h.chronology()
	if arg != "" {
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 {
			a.refuse("%q is no number of lines; try /history 20", arg)
			return
		}
		events = lastLines(events, n)
	}
	a.show(asHistory(events, ""))
}

// lastLines returns the last n lines of events, which it may change.
func lastLines(events batch, n int) batch {
	i := len(events)
	for ; i > 0 && n > 0; i-- {
		n -= events[i-1].lines()
	}
	if n < 0 {
		events[i] = events[i].without(-n)
	}
	return events[i:]
}

// without returns e, a post of several lines, to be shown without the first n.
func (e *event) without(n int) *event {
	p := e.content()
	for n > 0 {
		var line []byte
		if line, p.text, _ = bytes.Cut(p.text, []byte{'\n'}); len(line) > 0 {
			n--
		}
	}
	unsigned := append(appendContent(nil, p), make([]byte, signatureSize)...)
	return &event{feed: e.feed, sealed: unsigned, time: e.time, kind: e.kind, reached: e.reached}
}

// ---- direct messages

// direct sends a line that begins with @WHO or WHO/, and refuses what looks like one.
func (a *app) direct(ctx context.Context, s string) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.wait)
	defer cancel()
	if bare := strings.TrimLeftFunc(s, isBlank); s[0] != '@' && hasAt(bare) {
		who := a.resembled(bare)
		a.refuse("only a plain @ at the beginning of the line writes to %s alone, and this would go to everybody; begin it with @%s for that, or with @@%s to say it to all", who, who, who)
		return
	}
	to, who, text, known := whoOf(s, a.n.members())
	for len(to) == 0 && a.input == fromPipe && ctx.Err() == nil && (s[0] == '@' || a.resembled(s) == "") { // it may come yet
		a.n.mu.Lock()
		a.n.waitLocked(ctx)
		a.n.mu.Unlock()
		to, who, text, known = whoOf(s, a.n.members())
	}
	far, _, _, _ := whoOf(s, a.n.beyond())
	switch {
	case len(to) == 0 && len(far) > 0:
		a.refuse("%s@%v? is not connected with this node: it is heard through %s alone, and a direct message goes to its receiver alone; write to one who is connected: %s",
			far[0].name, far[0].addr, far[0].through, candidates(a.n.members()))
	case text == "" && len(to) > 0:
		a.refuse("nothing to say to %s; write the text after it", who)
	case len(to) == 0 && known:
		a.refuse("%s is not connected; write to one who is: %s", who, candidates(a.n.members()))
	case len(to) == 0:
		hint, near, publicly := "", a.resembled(s), "a second @"
		if how := differs(who, near); how != "" {
			hint = fmt.Sprintf(", and %q differs in %s", near, how)
		}
		if s[0] != '@' {
			publicly = "a space"
		}
		a.refuse("nobody here is called %q%s; write to one who is here: %s; or %s before it to send it as a line",
			who, hint, candidates(a.n.members()), publicly)
	case len(to) > 1:
		a.refuse("%q can be any of several; write to one of them: %s", who, candidates(to))
	default:
		a.directs.Add(1)
		if err := a.n.sendDirect(to[0], []byte(text)); err != nil {
			a.refuse("%v", err)
		}
	}
}

// ---- standard error

// A voice speaks on standard error, in whole lines. The caller of say may hold
// a lock, so say never waits: when nobody reads, what exceeds maxUnread is dropped.
type voice struct {
	w    io.Writer     // immutable
	turn chan struct{} // full while somebody writes; nobody else may then

	mu     sync.Mutex // guards all below
	unread []byte     // what is still to be written
}

func newVoice(w io.Writer) *voice { return &voice{w: w, turn: make(chan struct{}, 1)} }

// say says one line. Whatever came from elsewhere is cleaned here.
func (v *voice) say(format string, args ...any) {
	line := append(appendClean([]byte("p2pchat: "), fmt.Appendf(nil, format, args...)), '\n')
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.unread)+len(line) > maxUnread {
		return
	}
	v.unread = append(v.unread, line...)
	select {
	case v.turn <- struct{}{}:
		go v.write() // waited for by close, but not for ever: w may block
	default: // the goroutine that has the turn finds it
	}
}

func (v *voice) write() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.unread) > 0 {
		text := v.unread
		v.unread = nil
		v.mu.Unlock()
		v.w.Write(text) // there is nowhere to complain to
		v.mu.Lock()
	}
	<-v.turn
}

// close waits a moment until what was said is written.
func (v *voice) close() { within(farewell, func() { v.turn <- struct{}{} }) }

// ---- the terminal

// A screen owns the terminal: what is printed, what is complained of and what
// is typed all go through it. Its last row is the line being typed, and text
// that is written goes above that row.
//
// Until open has taken the terminal over, and where it can't be taken over,
// text is written as it stands and there is no escape sequence.
type screen struct {
	in         io.Reader
	out        io.Writer
	isTerminal bool                                              // out is one
	run        func(name string, args ...string) (string, error) // a command with the terminal as its input; nil where there is none

	turn    chan struct{} // full while somebody writes; nobody else may then, or may use columns and buf
	columns int           // of the window
	buf     []byte
	resized atomic.Bool   // columns are to be asked for
	due     chan struct{} // full while a drawing of the row waits for its turn
	quiet   *time.Timer   // fires when no keys were read for typedAhead
	closing sync.Once

	mu     sync.Mutex // guards all below; never held while writing or running a command
	row    editor
	saved  string // the mode to give back, for stty; "" while the terminal isn't ours
	hidden bool   // the row is not shown, though the terminal is ours
	left   bool   // the program is leaving: keys are dropped, and open refuses
}

// windowChanged is SIGWINCH on Linux, macOS and the BSDs. The standard library
// has no name for it on every system.
const windowChanged = syscall.Signal(28)

func newScreen(in io.Reader, out io.Writer) *screen {
	return &screen{in: in, out: out, turn: make(chan struct{}, 1), due: make(chan struct{}, 1), quiet: time.NewTimer(typedAhead)}
}

func screenOf(in, out *os.File) *screen {
	s := newScreen(in, out)
	s.isTerminal = kindOf(out) == fromTerminal
	term := os.Getenv("TERM")
	if kindOf(in) != fromTerminal || !s.isTerminal || term == "" || term == "dumb" || runtime.GOOS == "windows" {
		return s
	}
	s.run = func(name string, args ...string) (string, error) {
		ctx, cancel := context.Background(), func() {}
		if name == "stty" { // what PATH has by this name may be another program
			ctx, cancel = context.WithTimeout(ctx, sttyLimit)
		}
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdin, cmd.WaitDelay = in, screenWait
		text, err := cmd.Output()
		return strings.TrimSpace(string(text)), err
	}
	return s
}

// beside returns the writer for f: the screen, if f is the terminal that it can take over.
func (s *screen) beside(f *os.File) io.Writer {
	out, _ := s.out.(*os.File).Stat()
	info, _ := f.Stat()
	if s.run != nil && os.SameFile(info, out) {
		return s
	}
	return f
}

// open takes the terminal over and shows the row, and says whether it could.
func (s *screen) open() bool {
	if s.run == nil {
		return false
	}
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	gone := s.left
	s.mu.Unlock()
	if s.in == os.Stdin {
		syscall.Read(syscall.Stdin, nil) // stops us in the background, where the mode is the shell's, until the terminal is ours
	}
	saved, err := s.run("stty", "-g")
	if err != nil || gone {
		return false
	}
	// Ctrl-Z is a key, since a shell that gets the terminal back sets its own
	// mode and one that continues us doesn't give us ours.
	if err := s.set("-icanon", "-echo", "-iexten", "min", "1", "time", "0", "susp", "undef"); err != nil {
		s.set(saved)
		return false
	}
	s.mu.Lock()
	s.saved, s.hidden = saved, false
	s.mu.Unlock()
	s.resize()
	return true
}

// set changes the terminal's mode. Where stty can do so, it doesn't wait until
// all output is shown, as a terminal may take none.
func (s *screen) set(words ...string) error {
	_, err := s.run("stty", append([]string{"-drain"}, words...)...)
	if err != nil {
		_, err = s.run("stty", words...)
	}
	return err
}

// Write writes text, whole lines, above the row.
func (s *screen) Write(text []byte) (int, error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if err := s.write(text); err != nil {
		return 0, err
	}
	return len(text), nil
}

// write writes text and then the row anew, by one system call. The caller has
// the turn.
func (s *screen) write(text []byte) error {
	if s.resized.Swap(false) {
		size, _ := s.run("stty", "size")
		var rows int
		if fmt.Sscan(size, &rows, &s.columns); s.columns < 1 {
			s.columns = 80 // a serial line knows no size
		}
	}
	s.mu.Lock()
	if s.saved != "" {
		s.buf = s.appendAround(s.buf[:0], text)
		text = s.buf
	}
	s.mu.Unlock()
	if len(text) == 0 {
		return nil
	}
	_, err := s.out.Write(text)
	return err
}

// appendAround appends what takes the row away, text, and the row again. The
// terminal is to mark what is pasted. The caller has the turn, and holds mu.
func (s *screen) appendAround(b, text []byte) []byte {
	if s.row.cleared {
		b = append(b, "\x1b[H\x1b[2J"...)
		s.row.cleared = false
	}
	b = append(append(b, "\r\x1b[J"...), text...)
	if s.hidden {
		return append(b, "\x1b[?2004l"...)
	}
	return s.row.appendTo(append(b, "\x1b[?2004h"...), s.columns)
}

// redraw has the row shown anew as soon as the terminal takes output. It
// doesn't wait for that.
func (s *screen) redraw() {
	select {
	case s.due <- struct{}{}:
		go func() {
			s.turn <- struct{}{}
			<-s.due
			s.write(nil) // an error shows again when a line is printed
			<-s.turn
		}()
	default: // the drawing that is due shows the row as it is then
	}
}

// resize shows the row anew in a window that may have another size.
func (s *screen) resize() {
	s.resized.Store(s.run != nil)
	s.redraw()
}

// next returns the next line that was entered; several if they were pasted
// together. At the end of the input, or after Ctrl-D, it returns an error.
func (s *screen) next() (string, error) {
	keys := make([]byte, 4096)
	for {
		s.mu.Lock()
		key, line := s.row.next()
		s.mu.Unlock()
		s.redraw()
		switch key {
		case "\r", "\n":
			return line, nil
		case "\x04": // Ctrl-D
			return "", io.EOF
		case "\x1a": // Ctrl-Z
			s.suspend()
			continue
		}
		asked := time.Now()
		n, err := s.in.Read(keys)
		if err != nil {
			return "", err
		}
		s.mu.Lock()
		if time.Since(asked) > keyLimit && isHalf(s.row.keys) { // Escape alone; what is being pasted stays
			s.row.keys = nil
		}
		if !s.left {
			s.row.keys = append(s.row.keys, keys[:n]...)
		}
		s.quiet.Reset(typedAhead)
		s.mu.Unlock()
	}
}

// suspend stops the program, and all of its job, until the shell makes the
// terminal ours again, and then takes it over anew.
func (s *screen) suspend() {
	saved := s.restore()
	// Every shell has a name for the signal, though not every system has. When
	// the job is continued in the background, stty stops it again.
	if _, err := s.run("sh", "-c", `kill -TSTP 0; stty "$0"`, saved); err != nil {
		select {} // a signal ends us too; to read on would stop us, as the terminal is the shell's
	}
	s.open()
}

// stop hides the row for good, and has the rest of what is typed dropped.
func (s *screen) stop() {
	s.mu.Lock()
	s.left, s.hidden, s.row.keys = true, true, nil
	s.quiet.Reset(typedAhead)
	s.mu.Unlock()
	s.redraw()
}

// close gives the terminal back for good. Before that it waits a moment until no
// more keys come, as the shell would take what was typed ahead for commands.
// Another goroutine has to be in next, which reads the keys away.
func (s *screen) close() {
	s.closing.Do(func() {
		if s.run != nil {
			s.stop()
			select {
			case <-s.quiet.C:
			case <-time.After(farewell):
			}
		}
		s.restore()
	})
}

// restore hides the row, after the text that is just being written, and gives the
// terminal its mode back, which it returns.
func (s *screen) restore() (saved string) {
	s.mu.Lock()
	s.hidden, saved = true, s.saved
	s.mu.Unlock()
	hide := func() { s.Write(nil) }
	if !within(screenWait, hide) && saved != "" {
		within(screenWait, func() { s.set("-ixon") }) // undoes Ctrl-S; otherwise the shell's prompt would stand behind the row
		within(screenWait, hide)
	}
	s.mu.Lock()
	s.saved = ""
	s.mu.Unlock()
	if saved != "" {
		within(screenWait, func() { s.set(saved) })
	}
	return saved
}

// within waits for f, but not for longer than d. It says whether f has ended.
func within(d time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

// ---- the line being typed

// An editor is the line being typed, and what the keys do to it. It knows no
// terminal: keys come in as bytes, and the row goes out as bytes.
type editor struct {
	completions func() []string // what a line may begin with

	keys    []byte   // bytes of keys that are still to be pressed; of the last, the rest may have yet to come
	line    []rune   // with line feeds only if several lines were pasted
	at      int      // where the cursor is: before line[at]
	own     []string // lines entered earlier, the oldest first, and the one being typed
	pick    int      // which of them line is
	cleared bool     // the whole screen is to be cleared
}

// next presses keys until one ends the line, ends the input, or suspends the
// program; it returns this key, and the line. When there are no more keys it
// returns none.
func (e *editor) next() (key, line string) {
	for {
		switch key = e.key(); {
		case key == "" || key == "\x1a" || key == "\x04" && len(e.line) == 0:
			return key, ""
		case key == "\r" || key == "\n":
			return key, e.enter()
		}
		e.press(key)
	}
}

// A key is a sequence (ECMA-48), a character, with ESC before it if Alt is held,
// or a control character. A sequence is ESC [, parameters, and a last byte. Some
// terminals have ESC O instead, and the Linux console ESC [[. A terminal also
// sends what it tells of itself, such as its colours, when something asks for it:
// an OSC or a DCS, which ends with ST or BEL. Alt with ] or P begins like one.
var (
	wholeKey = regexp.MustCompile(`^(?:\x1b(?:\[\[|[O\[]([0-9]*)[0-?]*[ -/]*)([@-~])|` + // a sequence
		`\x1b[\]P]\P{Cc}*(?:\a|\x1b\\)|` + // what the terminal tells of itself
		`\x1b?[^\x00-\x1f]|(?s:.))`) // a character; a control character
	halfKey = regexp.MustCompile(`^\x1b(?:\[\[|[O\[][0-?]*[ -/]*|[\]P]\P{Cc}*\x1b?)?$`)
)

const paste, endOfPaste = "\x1b[200~", "\x1b[201~" // xterm calls it bracketed paste

// key takes the first key off those that are to be pressed: a character, a
// control character, an escape sequence, shortened to what matters (such as
// ESC [3~ or ESC [A), or all that was pasted at once, behind paste. It returns
// "" while the rest of the key has yet to come.
func (e *editor) key() string {
	b := e.keys
	if isHalf(b) || !utf8.FullRune(bytes.TrimPrefix(b, []byte{'\x1b'})) {
		return ""
	}
	if bytes.HasPrefix(b, []byte(paste)) {
		text, rest, ok := bytes.Cut(b, []byte(endOfPaste))
		if !ok {
			return ""
		}
		e.keys = rest
		return string(text)
	}
	m := wholeKey.FindSubmatch(b)
	e.keys = b[len(m[0]):]
	switch last := string(m[2]); last {
	case "":
		return string(m[0])
	case "~":
		return "\x1b[" + string(m[1]) + last
	default:
		return "\x1b[" + last // whatever Shift, Alt or Ctrl are held
	}
}

// isHalf says whether more bytes have to come before keys begins with a key. No
// sequence is longer than maxReply.
func isHalf(keys []byte) bool { return len(keys) <= maxReply && halfKey.Match(keys) }

func (e *editor) press(key string) {
	end := len(e.line)
	switch key {
	case "\x1b[D", "\x02": // Left, Ctrl-B
		e.at = e.step(e.at, -1)
	case "\x1b[C", "\x06": // Right, Ctrl-F
		e.at = e.step(e.at, +1)
	case "\x1b[H", "\x1b[1~", "\x1b[7~", "\x01": // Home, Ctrl-A
		e.at = 0
	case "\x1b[F", "\x1b[4~", "\x1b[8~", "\x05": // End, Ctrl-E
		e.at = end
	case "\x7f", "\b": // Backspace
		e.cut(e.step(e.at, -1), e.at)
	case "\x1b[3~", "\x04": // Delete, Ctrl-D
		e.cut(e.at, e.step(e.at, +1))
	case "\x0b": // Ctrl-K
		e.cut(e.at, end)
	case "\x15": // Ctrl-U
		e.cut(0, e.at)
	case "\x17": // Ctrl-W
		words := strings.TrimRightFunc(string(e.line[:e.at]), unicode.IsSpace)
		before := strings.TrimRightFunc(words, func(r rune) bool { return !unicode.IsSpace(r) })
		e.cut(utf8.RuneCountInString(before), e.at)
	case "\x1b[A", "\x10": // Up, Ctrl-P
		e.recall(e.pick - 1)
	case "\x1b[B", "\x0e": // Down, Ctrl-N
		e.recall(e.pick + 1)
	case "\t":
		e.complete()
	case "\x0c": // Ctrl-L
		e.cleared = true
	default:
		if text, ok := strings.CutPrefix(key, paste); ok {
			e.insert(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text))
		} else if key[0] >= ' ' {
			e.insert(key)
		}
	}
}

func (e *editor) insert(text string) {
	added := []rune(text)
	e.line = slices.Insert(e.line, e.at, added...)
	e.at += len(added)
}

func (e *editor) cut(from, to int) {
	e.line = slices.Delete(e.line, from, to)
	e.at = from
}

// recall has a line that was entered earlier take the place of line, or the
// one being typed again.
func (e *editor) recall(pick int) {
	if pick >= 0 && pick < len(e.own) {
		e.own[e.pick] = string(e.line)
		e.pick, e.line = pick, []rune(e.own[pick])
		e.at = len(e.line)
	}
}

// complete adds what all completions that begin with the text before the cursor
// have in common.
func (e *editor) complete() {
	begun, common := string(e.line[:e.at]), ""
	for _, c := range e.completions() {
		if begun == "" || !strings.HasPrefix(c, begun) {
			continue
		}
		common = cmp.Or(common, c)
		for !strings.HasPrefix(c, common) {
			_, size := utf8.DecodeLastRuneInString(common)
			common = common[:len(common)-size]
		}
	}
	e.insert(strings.TrimPrefix(common, begun))
}

func (e *editor) enter() string {
	line := string(e.line)
	if n := max(0, len(e.own)-1); line != "" && len(line) <= maxLine && (n == 0 || e.own[n-1] != line) {
		e.own = append(e.own[max(0, n+1-maxOwn):n], line, "")
	}
	e.line, e.at, e.pick = nil, 0, max(0, len(e.own)-1)
	return line
}

// step returns where what is seen as one character ends, from i on or, with
// by -1, backwards.
func (e *editor) step(i, by int) int {
	for i += by; i > 0 && i < len(e.line) && isJoined(e.line, i); i += by {
	}
	return min(max(i, 0), len(e.line))
}

// isJoined says whether line[i] is seen as one character with what stands
// before it (after Unicode Standard Annex 29).
func isJoined(line []rune, i int) bool {
	const nonJoiner, joiner = '\u200c', '\u200d'
	isFlag := func(r rune) bool { return r >= 0x1F1E6 && r <= 0x1F1FF } // a letter of one
	switch before, r := line[i-1], line[i]; {
	case before == '\n':
		return false
	case isFlag(r): // flags are pairs of letters
		n := 0
		for n < i && isFlag(line[i-1-n]) {
			n++
		}
		return n%2 == 1
	case before == joiner && isEmoji(r):
		return true
	case r >= 0x1F3FB && r <= 0x1F3FF || r >= 0x1160 && r <= 0x11FF: // tones of skin; vowels and finals of Hangul
		return true
	default:
		return unicode.Is(unicode.M, r) || isTag(r) || r == joiner || r == nonJoiner
	}
}

// appendTo appends the row: the part of the line round the cursor that fits
// into so many columns. The terminal places the cursor by its own widths, as
// it saves the cursor's position where the text before it ends. It doesn't
// wrap the row should that be wider than we think.
func (e *editor) appendTo(b []byte, columns int) []byte {
	room := columns - len(prompt) - 1 // the cursor may stand behind the last character
	_, ahead := e.fit(+1, room/4)
	from, used := e.fit(-1, room-ahead)
	to, _ := e.fit(+1, room-used)
	b = append(append(b, "\x1b[?7l"+prompt...), shown(e.line[from:e.at])...)
	b = append(append(b, "\x1b7"...), shown(e.line[e.at:to])...)
	return append(b, "\x1b8\x1b[?7h"...)
}

// fit returns how far the line, from the cursor in a direction, fits into
// room, and how much of that it takes.
func (e *editor) fit(by, room int) (end, used int) {
	end = e.at
	for {
		next := e.step(end, by)
		n := columnsOf(shown(e.line[min(end, next):max(end, next)]))
		if next == end || used+n > room {
			return end, used
		}
		end, used = next, used+n
	}
}

// shown returns text as it stands in the row.
func shown(text []rune) string {
	return strings.ReplaceAll(string(appendClean(nil, []byte(string(text)))), "\t", " ")
}

// columnsOf returns how many columns of a terminal text takes at most: none for a
// mark, and two from U+2300 on, where Unicode Standard Annex 11 has wide characters.
func columnsOf(text string) (n int) {
	for _, r := range text {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) || r >= 0x1160 && r <= 0x11FF:
		case r < 0x1100 || r >= 0x1200 && r < 0x2300:
			n++
		default:
			n += 2
		}
	}
	return n
}
