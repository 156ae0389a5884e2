package main

// End-to-end tests run the real program: TestMain turns the test binary into
// p2pchat itself, so that no build step stands between the code and its test.
// A node under test is a *proc; everything it prints is kept in two
// transcripts that tests wait on. Every node here is bound to loopback, or
// lives in a network namespace that the test made.

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("P2PCHAT_RUN") == "1" {
		main()
		return
	}
	// In the background of a script the tests are told to ignore these, and the
	// programs that they start would be so too.
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	os.Exit(m.Run())
}

// A transcript keeps what a program wrote on one stream and wakes whoever
// waits for a line of it.
type transcript struct {
	mu   sync.Mutex // guards all below
	text []byte
	grew chan struct{} // closed and replaced at each Write
}

func newTranscript() *transcript { return &transcript{grew: make(chan struct{})} }

func (tr *transcript) Write(b []byte) (int, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.text = append(tr.text, b...)
	close(tr.grew)
	tr.grew = make(chan struct{})
	return len(b), nil
}

func (tr *transcript) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return string(tr.text)
}

// lines returns the complete lines written so far.
func (tr *transcript) lines() []string {
	s := tr.String()
	i := strings.LastIndexByte(s, '\n')
	if i < 0 {
		return nil
	}
	return strings.Split(s[:i], "\n")
}

// waitFor returns nil as soon as ok holds of the text.
func (tr *transcript) waitFor(within time.Duration, ok func(text []byte) bool) error {
	deadline := time.After(within)
	for {
		tr.mu.Lock()
		good, grew := ok(tr.text), tr.grew
		tr.mu.Unlock()
		if good {
			return nil
		}
		select {
		case <-grew:
		case <-deadline:
			return fmt.Errorf("not within %v", within)
		}
	}
}

// A proc is a running p2pchat (or whatever argv names).
type proc struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser // nil when the program's input is not our pipe
	out    *transcript
	err    *transcript
	exited chan struct{} // closed once the program has ended and its output is in
	code   int           // exit status; valid once exited is closed
}

// A setup changes a command before it starts: its standard input, say.
type setup func(*exec.Cmd)

func withInput(r io.Reader) setup { return func(c *exec.Cmd) { c.Stdin = r } }
func withOutput(f *os.File) setup { return func(c *exec.Cmd) { c.Stdout = f } }
func withEnv(kv ...string) setup  { return func(c *exec.Cmd) { c.Env = append(c.Env, kv...) } }
func withNullInput() setup        { return func(c *exec.Cmd) { c.Stdin = nil; c.Args[0] = nullInput } }
func self(t testing.TB) string    { p, err := os.Executable(); must(t, err); return p }

const nullInput = "p2pchat-with-null-input" // argv[0] that tells start to leave stdin at the null device

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs argv with standard input from a pipe of ours, unless a setup
// says otherwise. The program is killed when the test ends.
func start(t testing.TB, name string, argv []string, setups ...setup) *proc {
	t.Helper()
	p := &proc{t: t, name: name, out: newTranscript(), err: newTranscript(), exited: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), "P2PCHAT_RUN=1", "TZ=UTC",
		"GORACE=atexit_sleep_ms=0") // the race detector would have each process take a second longer to end
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	for _, s := range setups {
		s(p.cmd)
	}
	if p.cmd.Stdin == nil && p.cmd.Args[0] != nullInput {
		in, err := p.cmd.StdinPipe()
		must(t, err)
		p.in = in
	}
	must(t, p.cmd.Start())
	go func() { // ends with the program, which Cleanup kills at the latest
		p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("%s: exit %d\n--- stdout\n%s--- stderr\n%s", name, p.code, clip(p.out.String()), clip(p.err.String()))
		}
	})
	return p
}

func clip(s string) string {
	if len(s) > 6000 {
		return s[:3000] + "\n[…]\n" + s[len(s)-3000:]
	}
	return s
}

// startNode starts p2pchat on loopback, in the room of the given UDP port.
func startNode(t testing.TB, port int, args []string, setups ...setup) *proc {
	t.Helper()
	argv := append([]string{self(t), "-bind", "127.0.0.1", "-port", strconv.Itoa(port)}, args...)
	return start(t, args[len(args)-1], argv, setups...)
}

// roomOf returns the -port that a node was started with.
func roomOf(p *proc) int {
	n, err := strconv.Atoi(p.cmd.Args[slices.Index(p.cmd.Args, "-port")+1])
	must(p.t, err)
	return n
}

// nextPort counts from where this run of the tests begins to look for ports, so
// that tests that run at a time never get the same one.
var nextPort = func() *atomic.Uint32 {
	var n atomic.Uint32
	n.Store(rand.Uint32N(1 << 31))
	return &n
}()

// freePort returns a port that nobody uses at the moment, for a room of its own.
func freePort(t testing.TB) int {
	t.Helper()
	if runtime.GOOS == "linux" { // elsewhere package net takes the same lock
		// A program that another test is about to run has all that is open here until
		// it is executed, and the port would be taken for so long.
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
	}
	for range 100 {
		port := 10000 + int(nextPort.Add(1)%20000) // below those that systems hand out by themselves
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port)) // not shared: nobody else may be there
		l.Close()
		if err == nil {
			u.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// say types lines into the program.
func (p *proc) say(lines ...string) {
	p.t.Helper()
	for _, l := range lines {
		if _, err := io.WriteString(p.in, l+"\n"); err != nil {
			p.t.Fatalf("%s: say %q: %v", p.name, l, err)
		}
	}
}

// sees waits until a line on standard output matches re (a regular
// expression, on one line) and returns that line.
func (p *proc) sees(within time.Duration, re string) string {
	p.t.Helper()
	return p.waitLine(p.out, "stdout", within, re)
}

// complains is sees for standard error.
func (p *proc) complains(within time.Duration, re string) string {
	p.t.Helper()
	return p.waitLine(p.err, "stderr", within, re)
}

func (p *proc) waitLine(tr *transcript, stream string, within time.Duration, re string) string {
	p.t.Helper()
	rx := regexp.MustCompile("(?m)" + re)
	var found []byte
	err := tr.waitFor(within, func(text []byte) bool {
		loc := rx.FindIndex(text)
		if loc == nil {
			return false
		}
		from := bytes.LastIndexByte(text[:loc[0]], '\n') + 1
		n := bytes.IndexByte(text[from:], '\n')
		if n < 0 {
			return false
		}
		found = text[from : from+n]
		return true
	})
	if err != nil {
		p.t.Fatalf("%s: no %s line matches %q: %v", p.name, stream, re, err)
	}
	return string(found)
}

// seesCount waits until at least n complete lines of standard output match re.
// It looks at each line once, so it serves floods too.
func (p *proc) seesCount(within time.Duration, n int, re string) {
	p.t.Helper()
	rx := regexp.MustCompile(re)
	got, from := 0, 0
	if err := p.out.waitFor(within, func(text []byte) bool {
		end := bytes.LastIndexByte(text, '\n') + 1
		for line := range bytes.Lines(text[from:end]) {
			if rx.Match(bytes.TrimSuffix(line, []byte("\n"))) {
				got++
			}
		}
		from = end
		return got >= n
	}); err != nil {
		p.t.Fatalf("%s: %d stdout lines match %q, want %d: %v", p.name, got, re, n, err)
	}
}

// screen returns what p printed, without timestamps.
func (p *proc) screen() []string { return withoutStamps(p.out.String()) }

// count says how many complete lines of standard output match re by now.
func (p *proc) count(re string) int { return count(p.out.lines(), re) }

// closeInput ends the program's standard input.
func (p *proc) closeInput() { p.in.Close() }

// signal sends sig to the program.
func (p *proc) signal(sig syscall.Signal) { must(p.t, p.cmd.Process.Signal(sig)) }

// exits waits for the end of the program and returns its exit status
// (-1 when a signal ended it).
func (p *proc) exits(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.code
	case <-time.After(within):
		p.t.Fatalf("%s: still runs after %v", p.name, within)
		return 0
	}
}

// historyFrame begins an answer to /history. What a newcomer is told of the time
// before it came has a frame too, which says from whom it is, and may come at any time.
const historyFrame = `^\S+ \S+ \* history: \d+ events?$`

// history asks for /history and returns the lines between its frame.
func (p *proc) history(within time.Duration) (got []string) {
	p.t.Helper()
	begins, ends := regexp.MustCompile(historyFrame), regexp.MustCompile(`^\S+ \S+ \* end of history$`)
	before := p.count(historyFrame)
	p.say("/history")
	frames, from := 0, 0
	if err := p.out.waitFor(within, func(text []byte) bool {
		end := bytes.LastIndexByte(text, '\n') + 1
		for line := range bytes.Lines(text[from:end]) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			switch {
			case begins.Match(line):
				frames++
			case frames <= before:
			case ends.Match(line):
				return true
			default:
				got = append(got, string(line))
			}
		}
		from = end
		return false
	}); err != nil {
		p.t.Fatalf("%s: /history is not answered: %v", p.name, err)
	}
	return got
}

// status returns a field of /proc/PID/status in its unit, or 0 on systems that
// don't have it.
func (p *proc) status(field string) int {
	p.t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	must(p.t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == field+":" {
			n, err := strconv.Atoi(f[1])
			must(p.t, err)
			return n
		}
	}
	p.t.Fatalf("%s: no %s in /proc", p.name, field)
	return 0
}

// megabytes is the memory that the program holds.
func (p *proc) megabytes() int { p.t.Helper(); return p.status("VmRSS") / 1024 }

// descriptors counts the files that the program has open.
func (p *proc) descriptors() int {
	p.t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	must(p.t, err)
	return len(files)
}
