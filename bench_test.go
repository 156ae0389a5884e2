package main

// What things cost. Benchmarks take the hot parts one by one. TestFigures
// takes the whole: real processes with pipes on both ends, on loopback, and
// prints one table, which README shows. It runs when asked for:
//
//	P2PCHAT_FIGURES=1 go test -count=1 -v -run TestFigures .
//
// -run TestFigures/Latency takes that one alone. With P2PCHAT_LONG=1 (and
// -timeout 1h) it adds 200 nodes on one machine, and how cost grows with nodes
// and with lines.
//
// A figure says little without another that is taken at the same moment, for
// machines are noisy. So the minimal program of this kind, called the floor
// here, is measured in turn with p2pchat: it frames lines, sends them over TCP
// in the clear, stamps them and prints them, and does nothing else. It is
// written as anybody would, with the buffers that bufio gives (4 KiB). p2pchat
// keeps what was said, so the same program stands beside it that keeps each line
// it sent or received in memory, which is the fair comparison. The test binary
// turns into them when P2PCHAT_FLOOR says so.
//
// Nothing here judges a time; what fails does not work at all.

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ---- benchmarks of the parts

// scrawled makes n posts that nobody signed, each a second after the one before.
func (s *scribe) scrawled(n int, text []byte) (run []post) {
	for range n {
		run = append(run, s.scrawls(kindLines, s.began+int64(s.last.number)*1e6, string(text)))
	}
	return run
}

const lineSize = 60 // bytes, with the line feed

// appendLine appends line i: 60 bytes, of which the number and a tilde are
// the last. Nothing else that p2pchat prints holds a tilde.
func appendLine(b []byte, i int) []byte {
	b = append(b, "the quick brown fox jumps over the lazy dog and..."...)
	for d := 10_000_000; d > 0; d /= 10 {
		b = append(b, byte('0'+i/d%10))
	}
	return append(b, "~\n"...)
}

func linesOf(n int) []byte {
	b := make([]byte, 0, n*lineSize)
	for i := range n {
		b = appendLine(b, i)
	}
	return b
}

var (
	oneLine  = linesOf(1)[:lineSize-1]
	pageText = linesOf(maxLine / lineSize)[:maxLine/lineSize*lineSize-1] // as much as a pipe puts into one post
	pageSize = maxLine / lineSize                                        // lines
)

// eachText runs f on the shortest and on the longest post that a pipe makes.
func eachText(b *testing.B, f func(b *testing.B, text []byte, lines int)) {
	b.Run("line", func(b *testing.B) { f(b, oneLine, 1) })
	b.Run("64KiB", func(b *testing.B) { f(b, pageText, pageSize) })
}

// perLine adds what a line took to what an operation took.
func perLine(b *testing.B, lines int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(lines), "ns/line")
}

func BenchmarkSeal(b *testing.B) {
	eachText(b, func(b *testing.B, text []byte, lines int) {
		w := newScribe(1, "Alex")
		p := w.draft(kindLines, scribeTime, string(text))
		b.ReportAllocs()
		for b.Loop() {
			sealPost(w.key, w.id, p)
		}
		perLine(b, lines)
	})
}

// BenchmarkVerify is what a relayed post costs its receiver.
func BenchmarkVerify(b *testing.B) {
	eachText(b, func(b *testing.B, text []byte, lines int) {
		w := newScribe(1, "Alex")
		sealed := sealPost(w.key, w.id, w.draft(kindLines, scribeTime, string(text))).sealed
		b.ReportAllocs()
		for b.Loop() {
			if p, err := parsePost(w.id, sealed); err != nil || !p.verify(w.id) {
				b.Fatal("a good post is refused", err)
			}
		}
		perLine(b, lines)
	})
}

// BenchmarkParseRun is what a POSTS frame of 256 KiB costs that its author sent.
func BenchmarkParseRun(b *testing.B) {
	eachText(b, func(b *testing.B, text []byte, lines int) {
		w := newScribe(1, "Alex")
		n := max(1, maxRun/(len(text)+200))
		body := runOf(w.id, w.scrawled(n, text))
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := parseRun(body); err != nil {
				b.Fatal(err)
			}
		}
		perLine(b, lines*n)
	})
}

// BenchmarkEncodePosts is the other end: posts become a frame.
func BenchmarkEncodePosts(b *testing.B) {
	eachText(b, func(b *testing.B, text []byte, lines int) {
		w := newScribe(1, "Alex")
		run := w.scrawled(max(1, maxRun/(len(text)+200)), text)
		var frame []byte
		b.ReportAllocs()
		for b.Loop() {
			frame = endFrame(appendRun(beginFrame(frame[:0], framePosts), w.id, run), 0)
		}
		b.SetBytes(int64(len(frame)))
		perLine(b, lines*len(run))
	})
}

func benchHistory() *history {
	w := newScribe(0, "Alex")
	return newHistory(w.key, 1<<40, time.Now, func() netip.AddrPort { return w.addr })
}

// must2nd returns a function that takes a value and an error which must be nil.
func must2nd(t testing.TB) func(int, error) {
	return func(_ int, err error) { t.Helper(); must(t, err) }
}

// BenchmarkAdd adds 1000 posts of one line to an empty history.
func BenchmarkAdd(b *testing.B) {
	w := newScribe(1, "Alex")
	run := w.scrawled(1000, oneLine)
	b.ReportAllocs()
	for b.Loop() {
		must2nd(b)(benchHistory().add(w.id, run, false, false))
	}
	perLine(b, len(run))
}

// BenchmarkAddFull is adding where as much must be dropped.
func BenchmarkAddFull(b *testing.B) {
	w := newScribe(1, "Alex")
	var runs [][]post
	for range 100 {
		runs = append(runs, w.scrawled(1000, oneLine))
	}
	key := newScribe(0, "Alex").key
	b.ReportAllocs()
	for b.Loop() {
		h := newHistory(key, 4<<20, time.Now, func() netip.AddrPort { return w.addr })
		h.dropCursor(h.printer) // nobody reads, so nobody holds anything back
		for _, run := range runs {
			must2nd(b)(h.add(w.id, run, false, false))
		}
	}
	perLine(b, 100*1000)
}

func BenchmarkFormat(b *testing.B) {
	eachText(b, func(b *testing.B, text []byte, lines int) {
		w, h := newScribe(1, "Alex"), benchHistory()
		must2nd(b)(h.add(w.id, w.scrawled(1, text), false, false))
		h.reached(w.id, w.addr, "Alex")
		l := newLiner(h, 7700)
		e := h.chronology()[0]
		var out []byte
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		b.ReportAllocs()
		for b.Loop() {
			out = l.appendEvent(out[:0], e)
		}
		runtime.ReadMemStats(&after)
		b.SetBytes(int64(len(out)))
		perLine(b, lines)
		b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N)/float64(lines), "allocs/line")
	})
}

func BenchmarkClean(b *testing.B) {
	for _, c := range []struct{ name, text string }{
		{"plain", string(oneLine)},
		{"emoji", "on the way 🙂 see you at 👩‍👩‍👧‍👦 and 🏳️‍🌈, großartig"},
		{"hostile", "\x1b[2J\x1b]0;you\a\r2026-11-22 \u202eevil\u2066 \xff\xfe\u200b\u0301\u0301\u0301\u0301\u0301\u0301\u0301"},
	} {
		b.Run(c.name, func(b *testing.B) {
			text := []byte(c.text)
			var out []byte
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				out = appendClean(out[:0], text)
			}
		})
	}
}

// BenchmarkVector lays out what a node has of 1000 authors, and reads it.
func BenchmarkVector(b *testing.B) {
	h := benchHistory()
	for i := range 1000 {
		w := newScribe(i+1, "Alex")
		must2nd(b)(h.add(w.id, w.scrawled(1, oneLine), false, false))
	}
	var body []byte
	b.ReportAllocs()
	for b.Loop() {
		body = beginHave(body[:0], 0)
		for author, s := range h.vector() {
			body = appendHaveEntry(body, author, s, netip.AddrPort{})
		}
		body = endHave(body, 0, haveComplete)
		theirs := map[nodeID]span{}
		if _, _, err := parseHave(body[5:], func(author nodeID, s span, _ netip.AddrPort) { theirs[author] = s }); err != nil || len(theirs) != 1000 {
			b.Fatal(len(theirs), err)
		}
	}
}

// BenchmarkChronology sorts 100,000 posts of ten authors that came one
// author after the other, as a newcomer gets them.
func BenchmarkChronology(b *testing.B) {
	h := benchHistory()
	for i := range 10 {
		w := newScribe(i+1, "Alex")
		must2nd(b)(h.add(w.id, w.scrawled(10_000, oneLine), false, false))
	}
	b.ReportAllocs()
	for b.Loop() {
		h.chronology()
	}
	perLine(b, 100_000)
}

// ---- the floor

func init() {
	keeps := os.Getenv("P2PCHAT_FLOOR_KEEPS") != ""
	switch os.Getenv("P2PCHAT_FLOOR") {
	case "":
		return
	case "send":
		floorSend(strings.Fields(os.Getenv("P2PCHAT_FLOOR_TO")), keeps)
	case "receive":
		floorReceive(keeps)
	}
	os.Exit(0)
}

// floorSend sends each line of standard input to all of the addresses,
// behind its length, and flushes when no more is waiting.
func floorSend(to []string, keeps bool) {
	var buffers []*bufio.Writer
	for _, addr := range to {
		c := noError(net.Dial("tcp4", addr))
		defer c.Close()
		buffers = append(buffers, bufio.NewWriter(c))
	}
	r := bufio.NewReader(os.Stdin)
	var head [4]byte
	var kept [][]byte
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		line = line[:len(line)-1]
		if keeps {
			kept = append(kept, bytes.Clone(line))
		}
		binary.BigEndian.PutUint32(head[:], uint32(len(line)))
		for _, w := range buffers {
			w.Write(head[:])
			w.Write(line)
			if r.Buffered() == 0 {
				w.Flush()
			}
		}
	}
}

// floorReceive takes one connection and prints what comes, each line with a
// stamp and a name before it.
func floorReceive(keeps bool) {
	l := noError(net.Listen("tcp4", "127.0.0.1:0"))
	fmt.Fprintln(os.Stderr, "floor at", l.Addr())
	c := noError(l.Accept())
	r, w := bufio.NewReader(c), bufio.NewWriter(os.Stdout)
	var kept [][]byte
	var prefix []byte
	var second int64
	for {
		head, err := r.Peek(4)
		if err != nil {
			w.Flush()
			return
		}
		n := int(binary.BigEndian.Uint32(head))
		r.Discard(4)
		line, err := r.Peek(n)
		if err != nil {
			return
		}
		if now := time.Now(); now.Unix() != second {
			second = now.Unix()
			prefix = append(now.AppendFormat(prefix[:0], stampLayout), " Floor@127.0.0.1: "...)
		}
		if keeps {
			kept = append(kept, bytes.Clone(line))
		}
		w.Write(prefix)
		w.Write(line)
		w.WriteByte('\n')
		r.Discard(n)
		if r.Buffered() == 0 {
			w.Flush()
		}
	}
}

// ---- what is measured with

const (
	bound     = 2 * time.Minute // for each wait; only what doesn't work needs as long
	forgets   = ""              // a floor that keeps nothing
	remembers = "P2PCHAT_FLOOR_KEEPS=1"
)

// A sink reads what a program prints as fast as it comes, and counts how
// often a mark is in it.
type sink struct {
	mark []byte
	each func(chunk []byte, at time.Time) // may be nil; called by the reader

	mu    sync.Mutex // guards all below
	count int
	at    time.Time     // when the last mark was read
	grew  chan struct{} // closed and replaced with each mark
}

func newSink(mark string) *sink { return &sink{mark: []byte(mark), grew: make(chan struct{})} }

// drain reads r to its end.
func (s *sink) drain(r io.ReadCloser) {
	defer r.Close()
	buf := make([]byte, 1<<20)
	kept := 0 // bytes of the chunk before, in which a mark may have begun
	for {
		n, err := r.Read(buf[kept:])
		now := time.Now()
		chunk := buf[:kept+n]
		if found := bytes.Count(chunk, s.mark); found > 0 {
			s.mu.Lock()
			s.count += found
			s.at = now
			close(s.grew)
			s.grew = make(chan struct{})
			s.mu.Unlock()
		}
		if s.each != nil {
			s.each(chunk, now)
		}
		if err != nil {
			return
		}
		kept = copy(buf, chunk[max(0, len(chunk)-len(s.mark)+1):])
	}
}

// wait returns when the n-th mark, and none after it, was read.
func (s *sink) wait(t testing.TB, n int) time.Time {
	t.Helper()
	deadline := time.After(bound)
	for {
		s.mu.Lock()
		count, at, grew := s.count, s.at, s.grew
		s.mu.Unlock()
		if count >= n {
			return at
		}
		select {
		case <-grew:
		case <-deadline:
			t.Fatalf("%d of %d times %q after %v", count, n, s.mark, bound)
		}
	}
}

func (s *sink) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// into connects a program's standard output with s, or where s is nil with
// /dev/null.
func (s *sink) into(t testing.TB) (out setup, started func()) {
	if s == nil {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		must(t, err)
		return withOutput(null), func() { null.Close() }
	}
	r, w, err := os.Pipe()
	must(t, err)
	go s.drain(r) // ends with the program
	return withOutput(w), func() { w.Close() }
}

// A bench holds what the figures have in common.
type bench struct {
	program string   // p2pchat, built as users build it
	flags   []string // of every node
	rows    []string // of the table of figures
	tables  []string // of how cost grows
}

// node starts p2pchat, whose output goes to a sink with the given mark.
func (f *bench) node(t testing.TB, port int, mark, name string, setups ...setup) (*proc, *sink) {
	t.Helper()
	s := newSink(mark)
	return f.nodeInto(t, s, port, name, nil, setups...), s
}

func (f *bench) nodeInto(t testing.TB, s *sink, port int, name string, flags []string, setups ...setup) *proc {
	t.Helper()
	out, started := s.into(t)
	defer started()
	argv := []string{f.program, "-bind", "127.0.0.1", "-port", strconv.Itoa(port)}
	return start(t, name, slices.Concat(argv, f.flags, flags, []string{name}), append(setups, out)...)
}

// ready returns once p listens, and says on which TCP port.
func ready(p *proc) int {
	p.t.Helper()
	line := p.complains(bound, `at 127\.0\.0\.1:\d+ in`)
	_, rest, _ := strings.Cut(line, "127.0.0.1:")
	digits, _, _ := strings.Cut(rest, " ")
	return noError(strconv.Atoi(digits))
}

// finish kills programs and waits for their end.
func finish(ps ...*proc) {
	for _, p := range ps {
		p.cmd.Process.Kill()
	}
	for _, p := range ps {
		<-p.exited
	}
}

// pour writes everything into p without waiting for it to be read.
func pour(p *proc, text []byte, thenClose bool) {
	go func() { // ends with p
		p.in.Write(text)
		if thenClose {
			p.in.Close()
		}
	}()
}

// A sample is one figure, taken several times.
type sample []float64

func (s sample) quantile(q float64) float64 {
	s = slices.Sorted(slices.Values(s))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func (s sample) median() float64 { return s.quantile(0.5) }

// text writes the median and, where there are more, the extremes.
func (s sample) text(format string) string {
	m := fmt.Sprintf(format, s.median())
	if len(s) > 1 {
		m += fmt.Sprintf(" ("+format+" to "+format+")", slices.Min(s), slices.Max(s))
	}
	return m
}

// over returns the ratios of what was measured in turn.
func (s sample) over(o sample) (r sample) {
	for i := range s {
		r = append(r, s[i]/o[i])
	}
	return r
}

// row adds a line to the table. format is of what was measured.
func (f *bench) row(figure, format string, args ...any) {
	f.rows = append(f.rows, fmt.Sprintf("| %s | %s |", figure, fmt.Sprintf(format, args...)))
}

func seconds(from, to time.Time) float64      { return to.Sub(from).Seconds() }
func milliseconds(from, to time.Time) float64 { return 1000 * seconds(from, to) }

// ---- what the system knows of a process

// cpuSeconds is the time that programs have had on a core.
func cpuSeconds(t testing.TB, ps ...*proc) (sum float64) {
	t.Helper()
	for _, p := range ps {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		must(t, err)
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:])) // from field 3 on, see proc(5)
		user, system := noError(strconv.Atoi(f[11])), noError(strconv.Atoi(f[12]))
		sum += float64(user+system) / 100
	}
	return sum
}

// memoryMiB is VmRSS or VmHWM of p.
func memoryMiB(t testing.TB, p *proc, field string) float64 {
	t.Helper()
	return float64(p.status(field)) / 1024
}

// established counts connections to the given listening ports.
func established(t testing.TB, ports map[int]bool) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/tcp")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "01" {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		if port, err := strconv.ParseUint(hex, 16, 16); err == nil && ports[int(port)] {
			n++
		}
	}
	return n
}

// loopbackPackets counts what the whole machine has sent to itself.
func loopbackPackets(t testing.TB) float64 {
	t.Helper()
	b, err := os.ReadFile("/proc/net/dev")
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "lo:")
	return float64(noError(strconv.Atoi(strings.Fields(rest)[1])))
}

// ---- the figures

func TestFigures(t *testing.T) {
	if os.Getenv("P2PCHAT_FIGURES") != "1" {
		t.Skip("takes minutes; set P2PCHAT_FIGURES=1")
	}
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc, so it needs Linux")
	}
	if testing.Short() {
		t.Skip("takes minutes")
	}
	f := &bench{program: filepath.Join(t.TempDir(), "p2pchat")}
	if out, err := exec.Command("go", "build", "-o", f.program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	began := time.Now()
	for _, x := range []struct {
		name string
		run  func(t *testing.T)
		long bool
	}{
		{"Throughput", f.throughput, false},
		{"FanOut", f.fanOut, false},
		{"Stopped", f.stopped, false},
		{"Latency", f.latency, false},
		{"Newcomer", f.newcomer, false},
		{"OneLinePosts", f.oneLinePosts, false},
		{"KeepFull", f.keepFull, false},
		{"Meet50", f.meet50, false},
		{"Idle20", f.idle20, false},
		{"KillSeen", f.killSeen, false},
		{"Echo", f.echo, false},
		{"GrowNodes", f.growNodes, true},
		{"GrowLines", f.growLines, true},
		{"Meet200", f.meet200, true},
	} {
		if x.long && os.Getenv("P2PCHAT_LONG") != "1" {
			continue
		}
		if !t.Run(x.name, x.run) { // -run may choose some: what is left out is true and adds no row
			f.row(x.name, "failed")
		}
	}
	fmt.Printf("\n| figure | measured: median (least to most) |\n|---|---|\n")
	for _, s := range f.rows {
		fmt.Println(s)
	}
	fmt.Printf("\n%d CPUs, %s %s/%s, load %s, huge pages %s; taken in %v.\n", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH,
		load(), hugePages(), time.Since(began).Round(time.Second))
	for _, s := range f.tables {
		fmt.Println("\n" + s)
	}
}

// hugePages says whether the system gives memory in pieces of 2 MiB. The first
// touch of a page is a large part of a flood's cost on some machines.
func hugePages() string {
	b, _ := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	_, rest, _ := strings.Cut(string(b), "[")
	setting, _, _ := strings.Cut(rest, "]")
	return cmp.Or(setting, "unknown")
}

// load is the load average of the last minutes: how many others there were.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

// pipe sends lines through p2pchat to n receivers, and returns how many were
// printed per second from the start of the sender to the last line. What the
// sender prints itself goes into own; the minimal program's sender prints
// nothing.
func (f *bench) pipe(t testing.TB, lines []byte, n int, own *sink) float64 {
	t.Helper()
	port := freePort(t)
	var ps []*proc
	var sinks []*sink
	for i := range n {
		p, s := f.node(t, port, "~", fmt.Sprint("Receiver ", i), withNullInput())
		ps, sinks = append(ps, p), append(sinks, s)
	}
	for _, p := range ps {
		ready(p)
	}
	if n > 1 {
		f.settle(t, ps, n)
	}
	from := time.Now()
	sender := f.nodeInto(t, own, port, "Sender", nil)
	pour(sender, lines, true)
	took := lastOf(t, sinks, len(lines)/lineSize).Sub(from)
	finish(append(ps, sender)...)
	return float64(n*len(lines)/lineSize) / took.Seconds()
}

// floor is pipe for the minimal program.
func (f *bench) floor(t testing.TB, lines []byte, n int, keeping string) float64 {
	t.Helper()
	ps, sinks, to := floorReceivers(t, n, keeping)
	from := time.Now()
	sender := start(t, "floor", []string{self(t)}, floorEnv("send", keeping), withEnv("P2PCHAT_FLOOR_TO="+to))
	pour(sender, lines, true)
	took := lastOf(t, sinks, len(lines)/lineSize).Sub(from)
	finish(append(ps, sender)...)
	return float64(n*len(lines)/lineSize) / took.Seconds()
}

func floorReceivers(t testing.TB, n int, keeping string) (ps []*proc, sinks []*sink, to string) {
	t.Helper()
	for range n {
		s := newSink("~")
		p, addr := floorReceiver(t, s, keeping)
		ps, sinks, to = append(ps, p), append(sinks, s), to+" "+addr
	}
	return ps, sinks, to
}

func floorReceiver(t testing.TB, s *sink, keeping string) (p *proc, addr string) {
	t.Helper()
	out, started := s.into(t)
	defer started()
	p = start(t, "floor", []string{self(t)}, floorEnv("receive", keeping), withNullInput(), out)
	_, addr, _ = strings.Cut(p.complains(bound, `^floor at `), " at ")
	return p, addr
}

func floorEnv(role, keeping string) setup {
	return withEnv("P2PCHAT_FLOOR="+role, keeping)
}

func lastOf(t testing.TB, sinks []*sink, n int) (last time.Time) {
	t.Helper()
	for _, s := range sinks {
		if at := s.wait(t, n); at.After(last) {
			last = at
		}
	}
	return last
}

func (f *bench) throughput(t *testing.T) {
	lines := linesOf(1_000_000)
	var ours, echoing, floor, keeping sample
	for range 5 {
		ours = append(ours, f.pipe(t, lines, 1, nil)/1e6)
		echoing = append(echoing, f.pipe(t, lines, 1, newSink("~"))/1e6)
		floor = append(floor, f.floor(t, lines, 1, forgets)/1e6)
		keeping = append(keeping, f.floor(t, lines, 1, remembers)/1e6)
	}
	f.row("1 M piped lines of 60 bytes to one other node's stdout",
		"%s M lines/s (%.2f where the sender's own output is read too); %s of the minimal program, %s of one that keeps the lines",
		ours.text("%.2f"), echoing.median(), ours.over(floor).text("%.2f"), ours.over(keeping).text("%.2f"))
}

func (f *bench) fanOut(t *testing.T) {
	lines := linesOf(400_000)
	var ours, floor, keeping sample
	for range 3 {
		ours = append(ours, f.pipe(t, lines, 20, nil)/1e6)
		floor = append(floor, f.floor(t, lines, 20, forgets)/1e6)
		keeping = append(keeping, f.floor(t, lines, 20, remembers)/1e6)
	}
	f.row("400 k lines to 20 nodes", "%s M deliveries/s; %s of the minimal program, %s of one that keeps the lines",
		ours.text("%.2f"), ours.over(floor).text("%.2f"), ours.over(keeping).text("%.2f"))
}

// stopped compares rooms in which all have met before the first line.
func (f *bench) stopped(t *testing.T) {
	lines := linesOf(1_000_000)
	speed := func(third bool) float64 {
		port := freePort(t)
		healthy, s := f.node(t, port, "~", "Healthy", withNullInput())
		ps := []*proc{healthy}
		if third {
			p, _ := f.node(t, port, "~", "Third", withNullInput())
			ps = append(ps, p)
		}
		sender := f.nodeInto(t, newSink("~"), port, "Sender", nil)
		ps = append(ps, sender)
		f.settle(t, ps, len(ps))
		if third {
			freeze(ps[1])
		}
		from := time.Now()
		pour(sender, lines, false)
		took := seconds(from, s.wait(t, 1_000_000))
		finish(ps...)
		return 1 / took
	}
	var with, without sample
	for range 3 {
		without = append(without, speed(false))
		with = append(with, speed(true))
	}
	f.row("1 M lines while a third node is stopped",
		"%s of the speed without it; %s M lines/s", with.over(without).text("%.2f"), with.text("%.2f"))
}

// timed returns a sink of lines, and when each of them was written, which is
// set before it is, and how many milliseconds later it was read.
func timed(lines int) (*sink, []time.Time, sample) {
	s, in, took := newSink("~"), make([]time.Time, lines), make(sample, lines)
	s.each = func(chunk []byte, at time.Time) {
		for i := bytes.IndexByte(chunk, '~'); i >= 0; i = bytes.IndexByte(chunk, '~') {
			if n, err := strconv.Atoi(string(chunk[max(0, i-8):i])); err == nil && n < lines {
				took[n] = milliseconds(in[n], at)
			}
			chunk = chunk[i+1:]
		}
	}
	return s, in, took
}

// latency writes lines in turn into three programs, and looks when each line
// comes out at the other end.
func (f *bench) latency(t *testing.T) {
	const lines, gap = 600, 6 * time.Millisecond
	var took, late [3]sample // p2pchat, the minimal program, and that which keeps the lines
	for range 3 {
		port := freePort(t)
		var sinks [3]*sink
		var in [3][]time.Time
		var each [3]sample
		for k := range sinks {
			sinks[k], in[k], each[k] = timed(lines)
		}
		receiver := f.nodeInto(t, sinks[0], port, "Receiver", nil, withNullInput())
		senders, ends := []*proc{f.nodeInto(t, newSink("~"), port, "Sender", nil)}, []*proc{receiver}
		f.settle(t, []*proc{receiver, senders[0]}, 2)
		for k, keeping := range []string{forgets, remembers} {
			end, to := floorReceiver(t, sinks[1+k], keeping)
			ends = append(ends, end)
			senders = append(senders, start(t, "floor", []string{self(t)}, floorEnv("send", keeping), withEnv("P2PCHAT_FLOOR_TO="+to)))
		}
		time.Sleep(time.Second) // for what follows a meeting
		next := time.Now()
		for i := range lines {
			for k, p := range senders {
				next = next.Add(gap / 3)
				time.Sleep(time.Until(next))
				line := appendLine(nil, i)
				in[k][i] = time.Now()
				p.in.Write(line)
			}
		}
		for _, s := range sinks {
			s.wait(t, lines)
		}
		finish(append(senders, ends...)...) // and with them the sinks
		time.Sleep(50 * time.Millisecond)
		for k, s := range each {
			took[k], late[k] = append(took[k], s.median()), append(late[k], s.quantile(0.99))
		}
	}
	f.row("line in to line out, 2 nodes, 170 lines/s",
		"%s ms at the median, %s times the minimal program, %s times one that keeps the lines; 99 of 100 within %s ms (its %s)",
		took[0].text("%.2f"), took[0].over(took[1]).text("%.2f"), took[0].over(took[2]).text("%.2f"), late[0].text("%.1f"), late[1].text("%.1f"))
}

// holder starts a node that was told lines, and waits until it holds them.
func (f *bench) holder(t testing.TB, port, lines int) (*proc, *sink) {
	t.Helper()
	p, s := f.node(t, port, "~", "Holder")
	pour(p, linesOf(lines), false)
	s.wait(t, lines)
	return p, s
}

// joins starts a newcomer several times and returns the seconds from its
// start to the last of the given number of lines, and its memory at its most.
func (f *bench) joins(t testing.TB, times, port, lines int) (took, peak sample) {
	t.Helper()
	for range times {
		from := time.Now()
		p, s := f.node(t, port, "~", "Newcomer", withNullInput())
		took = append(took, seconds(from, s.wait(t, lines)))
		peak = append(peak, memoryMiB(t, p, "VmHWM"))
		p.signal(syscall.SIGTERM)
		p.exits(bound)
	}
	return took, peak
}

func (f *bench) newcomer(t *testing.T) {
	port := freePort(t)
	p, _ := f.holder(t, port, 100_000)
	took, _ := f.joins(t, 5, port, 100_000)
	finish(p)

	var own, took1M, peak, shown sample
	for range 3 {
		port := freePort(t)
		p, s := f.holder(t, port, 1_000_000)
		own = append(own, memoryMiB(t, p, "VmHWM"))
		a, b := f.joins(t, 1, port, 1_000_000)
		took1M, peak = append(took1M, a...), append(peak, b...)
		from := time.Now()
		p.say("/history")
		shown = append(shown, seconds(from, s.wait(t, 2_000_000)))
		finish(p)
	}
	f.row("newcomer to 100 k and to 1 M piped lines", "%s s, %s s", took.text("%.2f"), took1M.text("%.2f"))
	f.row("memory for 1 M piped lines, at its most", "%s MiB of who said them, %s of a newcomer", own.text("%.0f"), peak.text("%.0f"))
	f.row("`/history` of 1 M lines into a pipe", "%s s", shown.text("%.2f"))
}

// oneLinePosts has a history file of 200,000 posts served by a node that
// didn't write them, as long after their author left.
func (f *bench) oneLinePosts(t *testing.T) {
	const posts = 200_000
	w := newScribe(1, "Alex")
	file := []byte(fileHeader)
	var run []post
	for i := range posts {
		p := w.writes(kindLines, scribeTime+int64(i)*1e6, string(appendLine(nil, i)[:lineSize-1]))
		file = appendRecord(file, record{typ: recordPost, author: w.id, body: p.sealed})
		run = append(run, p)
	}
	path := filepath.Join(t.TempDir(), "history")
	must(t, os.WriteFile(path, file, 0o600))
	file = nil
	port := freePort(t)
	empty, _ := f.node(t, freePort(t), "~", "Empty", withNullInput())
	holder := f.nodeInto(t, newSink("~"), port, "Holder", []string{"-history", path}, withNullInput())
	ready(holder)
	took, _ := f.joins(t, 3, port, posts)
	var resident sample
	for range 3 {
		p, s := f.node(t, port, "~", "Newcomer", withNullInput())
		s.wait(t, posts)
		time.Sleep(time.Second)
		resident = append(resident, (memoryMiB(t, p, "VmRSS")-memoryMiB(t, empty, "VmRSS"))*(1<<20)/posts-(lineSize-1))
		finish(p)
	}
	f.row("newcomer to 200 k one-line posts; memory of each beyond its text", "%s s; %.0f bytes, %s with garbage",
		took.text("%.2f"), heapPerPost(t, w.id, run)-(lineSize-1), resident.text("%.0f"))
}

// keepFull has a node hold as many one-line posts as -keep allows while a
// member adds 20,000 of them a second, and looks how late the lines of another
// come, and how much memory it takes.
func (f *bench) keepFull(t *testing.T) {
	const posts, lines, gap, perFrame = 1_100_000, 2000, 5 * time.Millisecond, 100
	w := newScribe(1, "Writer")
	w.began = time.Now().UnixMicro() - posts*1e6 // a line in a second, until now
	path := filepath.Join(t.TempDir(), "history")
	file := noError(os.Create(path))
	defer file.Close()
	b := bufio.NewWriter(file)
	b.WriteString(fileHeader)
	for range posts / 50 {
		run := w.scrawled(49, oneLine)
		run = append(run, w.writes(kindLines, w.last.time+1e6, string(oneLine))) // which proves the others
		for _, p := range run {
			b.Write(appendRecord(nil, record{typ: recordPost, author: w.id, body: p.sealed}))
		}
	}
	must(t, b.Flush())

	port := freePort(t)
	s, in, took := timed(lines)
	holder := f.nodeInto(t, s, port, "Holder", []string{"-history", path}, withNullInput())
	tcp := ready(holder)
	loaded := memoryMiB(t, holder, "VmRSS")
	sender, _ := f.node(t, port, "~", "Sender")
	f.settle(t, []*proc{holder, sender}, 2)
	raw := noError(net.Dial("tcp4", fmt.Sprint("127.0.0.1:", tcp)))
	defer raw.Close()
	chatter := newScribe(2, "Chatter")
	chatter.began = time.Now().UnixMicro() - 400_000*1e6
	v := noError(visit(raw, newRoomKey(""), chatter.key, helloOf("Chatter")))
	raw.SetDeadline(time.Time{})
	go io.Copy(io.Discard, v.tls) // ends with raw
	done := make(chan struct{})
	var chatting sync.WaitGroup
	chatting.Go(func() {
		for next := time.Now(); ; {
			v.says(endFrame(appendRun(beginFrame(nil, framePosts), chatter.id, chatter.scrawled(perFrame, oneLine[:lineSize-2])), 0))
			next = next.Add(gap)
			select {
			case <-time.After(time.Until(next)):
			case <-done:
				return
			}
		}
	})
	next := time.Now()
	for i := range lines {
		next = next.Add(gap)
		time.Sleep(time.Until(next))
		in[i] = time.Now()
		sender.in.Write(appendLine(nil, i))
	}
	s.wait(t, lines)
	close(done)
	chatting.Wait()
	f.row("256 MiB of one-line posts are held: memory", "%.0f MiB when loaded, %.0f in the talk, %.0f at its most",
		loaded, memoryMiB(t, holder, "VmRSS"), memoryMiB(t, holder, "VmHWM"))
	f.row("and others' lines, while 20,000 posts/s come and go", "median %.2f ms, 99th percentile %.1f ms, latest %.1f ms",
		took.median(), took.quantile(0.99), took.quantile(1))
	finish(holder, sender)
}

// heapPerPost is what a history keeps of each post of run, which came in
// frames as they are sent.
func heapPerPost(t testing.TB, author nodeID, run []post) float64 {
	t.Helper()
	var frames [][]byte
	perFrame := maxRun / (len(run[0].sealed) + 4)
	for part := range slices.Chunk(run, perFrame) {
		frames = append(frames, slices.Clip(runOf(author, part)))
	}
	size := 0
	for _, b := range frames {
		size += len(b)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	h := benchHistory()
	for _, body := range frames {
		_, posts, err := parseRun(body)
		must(t, err)
		must2nd(t)(h.add(author, posts, true, false))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(h)
	runtime.KeepAlive(frames)
	runtime.KeepAlive(run)
	return float64(int64(after.HeapAlloc-before.HeapAlloc)+int64(size)) / float64(len(run))
}

// A meeting is how a room came about.
type meeting struct {
	ps          []*proc
	sinks       []*sink // they count joins
	took        float64 // s until everybody had met everybody
	cpu         float64 // s of all nodes by then
	connections int
}

// meet starts n nodes in the same instant.
func (f *bench) meet(t testing.TB, n int) (m meeting) {
	t.Helper()
	port := freePort(t)
	from := time.Now()
	for i := range n {
		p, s := f.node(t, port, " joined\n", fmt.Sprint("Node ", i), withNullInput())
		m.ps, m.sinks = append(m.ps, p), append(m.sinks, s)
	}
	met := lastOf(t, m.sinks, n-1)
	var at time.Time
	if m.connections, at = f.settle(t, m.ps, n); at.After(met) {
		met = at
	}
	m.cpu = cpuSeconds(t, m.ps...)
	m.took = seconds(from, met)
	return m
}

// settle waits until ps, all of a room of n, have one connection each with
// each. It returns the time before which they had not, if it had to wait.
func (f *bench) settle(t testing.TB, ps []*proc, n int) (connections int, at time.Time) {
	t.Helper()
	ports := map[int]bool{}
	for _, p := range ps {
		ports[ready(p)] = true
	}
	deadline := time.Now().Add(bound)
	for {
		if connections = established(t, ports); connections == n*(n-1)/2 {
			return connections, at
		}
		if at = time.Now(); at.After(deadline) {
			t.Fatalf("%d connections among %d nodes after %v", connections, n, bound)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// idle lets a room rest, and then measures what that costs a node: percent
// of a core, MiB resident, packets that the room sends per second.
func (m *meeting) idle(t testing.TB, d time.Duration) (percent, resident, packets float64) {
	t.Helper()
	time.Sleep(5 * time.Second)
	from, cpu, sent := time.Now(), cpuSeconds(t, m.ps...), loopbackPackets(t)
	time.Sleep(d)
	took := seconds(from, time.Now())
	n := float64(len(m.ps))
	percent = 100 * (cpuSeconds(t, m.ps...) - cpu) / took / n
	packets = (loopbackPackets(t) - sent) / took
	for _, p := range m.ps {
		resident += memoryMiB(t, p, "VmRSS") / n
	}
	return percent, resident, packets
}

func (f *bench) meet50(t *testing.T) {
	var took, cpu sample
	var m meeting
	for i := range 3 {
		m = f.meet(t, 50)
		took, cpu = append(took, m.took), append(cpu, m.cpu)
		if i < 2 {
			finish(m.ps...)
		}
	}
	f.row("50 nodes at once until all have met",
		"%s s, %d connections, %s CPU-seconds", took.text("%.1f"), m.connections, cpu.text("%.1f"))
	f.rowIdle(t, &m)
}

func (f *bench) idle20(t *testing.T) {
	m := f.meet(t, 20)
	f.rowIdle(t, &m)
}

func (f *bench) rowIdle(t *testing.T, m *meeting) {
	percent, resident, _ := m.idle(t, 15*time.Second)
	f.row(fmt.Sprintf("idle node in a room of %d", len(m.ps)), "%.2f %% of a core, %.1f MiB", percent, resident)
}

func (f *bench) killSeen(t *testing.T) {
	port := freePort(t)
	witness, lost := f.node(t, port, " lost\n", "Witness", withNullInput())
	end := func(n int, by func(*proc)) float64 {
		victim, joined := f.node(t, port, " joined\n", "Victim", withNullInput())
		joined.wait(t, 1)
		f.settle(t, []*proc{witness, victim}, 2)
		time.Sleep(200 * time.Millisecond)
		from := time.Now()
		by(victim)
		defer finish(victim)
		return milliseconds(from, lost.wait(t, n))
	}
	var killed sample
	for i := range 5 {
		killed = append(killed, end(i+1, func(p *proc) { p.signal(syscall.SIGKILL) }))
	}
	f.row("a killed node seen; one that falls silent", "%s ms; %.1f s", killed.text("%.0f"), end(6, freeze)/1000)
}

func (f *bench) echo(t *testing.T) {
	m := f.meet(t, 10)
	port := roomOf(m.ps[0])
	var took sample
	for i := range 20 {
		from := time.Now()
		p := f.nodeInto(t, newSink("~"), port, "Bot", nil, withInput(strings.NewReader("hi\n")))
		if code := p.exits(bound); code != 0 {
			t.Fatalf("run %d: exit status %d", i, code)
		}
		took = append(took, milliseconds(from, time.Now()))
	}
	f.row("`echo hi \\| p2pchat Bot`, room of 10, whole process", "%s ms", took.text("%.0f"))
}

// meet200 says how far the room has come, whether or not all have met.
func (f *bench) meet200(t *testing.T) {
	const n, all, watch = 200, 200 * 199 / 2, 5 * time.Minute
	port, from := freePort(t), time.Now()
	var ps []*proc
	var sinks []*sink
	for i := range n {
		p, s := f.node(t, port, " lost\n", fmt.Sprint("Node ", i), withNullInput())
		ps, sinks = append(ps, p), append(sinks, s)
	}
	ports := map[int]bool{}
	for _, p := range ps {
		ports[ready(p)] = true
	}
	met := established(t, ports)
	for ; met != all && time.Since(from) < bound; met = established(t, ports) {
		time.Sleep(time.Second) // a look at so many connections takes the kernel its time
	}
	took, cpu := seconds(from, time.Now()), cpuSeconds(t, ps...)
	time.Sleep(watch)
	lost := 0
	for _, s := range sinks {
		lost += s.total()
	}
	f.row("200 nodes at once on one machine",
		"%d connections after %.0f s, %.0f CPU-seconds; %d after another %v, in which %d nodes were called lost",
		met, took, cpu, established(t, ports), watch, lost)
}

// ---- how cost grows

func (f *bench) growNodes(t *testing.T) {
	table := "| nodes | connections | met after | CPU to meet | memory of a node | idle node | packets per second, all |\n|---|---|---|---|---|---|---|"
	defer func() { f.tables = append(f.tables, table) }() // as far as it came
	for _, n := range []int{2, 5, 10, 20, 50, 100} {
		m := f.meet(t, n)
		percent, resident, packets := m.idle(t, 10*time.Second)
		finish(m.ps...)
		table += fmt.Sprintf("\n| %d | %d | %.2f s | %.2f s | %.1f MiB | %.2f %% of a core | %.0f |",
			n, m.connections, m.took, m.cpu, resident, percent, packets)
	}
}

func (f *bench) growLines(t *testing.T) {
	f.flags = []string{"-keep", "8GiB"}
	defer func() { f.flags = nil }()
	table := "| lines of history | newcomer has them after | memory of who said them | of a newcomer |\n|---|---|---|---|"
	defer func() { f.tables = append(f.tables, table) }() // as far as it came
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000, 10_000_000} {
		port := freePort(t)
		p, _ := f.holder(t, port, n)
		took, peak := f.joins(t, 3, port, n)
		table += fmt.Sprintf("\n| %d | %.2f s | %.0f MiB | %.0f MiB |", n, took.median(), memoryMiB(t, p, "VmHWM"), peak.median())
		finish(p)
	}
}
