package main

// These tests use p2pchat as scripts do: through pipes and files, by its exit
// status and by signals. They hold it to the words of README: what a line of
// input means, what is refused and how, when the program leaves and with which
// status. Nodes meet on loopback, each test in a room of its own.
//
// P2PCHAT_LONG=1 takes the big numbers: 200 runs instead of 20, a million
// lines instead of a hundred thousand.

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	patience = 30 * time.Second // only a broken program needs this long
	leaving  = 4 * time.Second  // 1 s is promised, the rest is for a busy machine; what blocks would take 5 s and more
)

func init() {
	// A program built with -race sleeps for a second before it exits, unless
	// told not to; nodes under test inherit this.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
}

// long chooses between a number for every day and one for P2PCHAT_LONG=1.
func long(short, long int) int {
	if os.Getenv("P2PCHAT_LONG") == "1" {
		return long
	}
	return short
}

// The grammar of standard output, of README's section Output. Here all nodes
// are on loopback; lab_test.go has other addresses.
const (
	stampPat = `\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`
	namePat  = `[^@:/*()>\s]+(?: [^@:/*()>\s]+)*`
	hostPat  = `127\.0\.0\.1(?::\d+)?`
	mePat    = namePat + ` \(me\)`
)

var grammar = grammarOf(`127\.0\.0\.[12]`)

// grammarOf is the grammar of a line where addresses match ip.
func grammarOf(ip string) *regexp.Regexp {
	met := namePat + `@` + ip + `(?::\d+)?`
	who := `(?:` + met + `\??|` + namePat + `@\?)` // we were never there, or not yet; it knew none
	return regexp.MustCompile(`^` + stampPat + ` (?:` + strings.Join([]string{
		`\* (?:` + who + `|` + mePat + `) (?:joined|left|lost|is back|is now ` + namePat + `)`,
		`\* ` + met + ` is now at ` + ip + `(?::\d+)?`,
		`(?:` + who + `|` + mePat + `): .+`,
		met + ` -> me: .+`,
		mePat + ` -> ` + met + `: .+`,
		`\* history: \d+ events?(?: from ` + met + `)?`,
		`\* end of history`,
		`\* member ` + namePat + `@` + ip + `:\d+(?:\?? (?:idle )?|\? through ` + namePat + `@` + ip + `:\d+ )since ` + stampPat,
		`\* member ` + mePat,
	}, `|`) + `)$`)
}

var (
	ownEvent = regexp.MustCompile(`^` + stampPat + ` \* ` + mePat + ` \w`)
	crash    = regexp.MustCompile(`(?m)^(?:WARNING: DATA RACE|panic:|fatal error:).*`)
)

// chat starts a node and holds all that it prints to the grammar.
func chat(t testing.TB, port int, args []string, setups ...setup) *proc {
	t.Helper()
	var p *proc
	t.Cleanup(func() { // runs when the program has ended
		if p != nil {
			p.keepsTo(grammar)
		}
	})
	p = startNode(t, port, args, setups...)
	return p
}

// keepsTo fails if p printed a line that is not in the grammar or not clean, or
// an event of its own outside /history, or if it crashed. Of floods it looks at
// both ends.
func (p *proc) keepsTo(grammar *regexp.Regexp) {
	const most = 2000
	framed, lines := false, p.out.lines()
	for i, l := range lines {
		switch {
		case strings.Contains(l, " * history: "):
			framed = true
		case strings.HasSuffix(l, " * end of history"):
			framed = false
		}
		if most <= i && i < len(lines)-most {
			continue
		}
		if !framed && ownEvent.MatchString(l) {
			p.t.Errorf("%s prints an event of its own outside /history: %q", p.name, l)
		}
		if !grammar.MatchString(l) {
			p.t.Errorf("%s prints a line outside the grammar: %q", p.name, clip(l))
		}
		if why := unclean(l); why != "" {
			p.t.Errorf("%s prints %s: %q", p.name, why, clip(l))
		}
	}
	if bad := crash.FindString(p.err.String()); bad != "" {
		p.t.Errorf("%s says %q on standard error", p.name, bad)
	}
}

// company starts a node for each name and returns when all have met.
func company(t testing.TB, port int, names ...string) []*proc {
	t.Helper()
	var ps []*proc
	for _, name := range names {
		ps = append(ps, chat(t, port, []string{name}))
	}
	haveMet(ps...)
	return ps
}

// haveMet waits until each has shown each other as joined.
func haveMet(ps ...*proc) {
	for _, p := range ps {
		p.t.Helper()
		for _, q := range ps {
			if p != q {
				p.sees(patience, `\* `+at(q.name)+` joined$`)
			}
		}
	}
}

// at is an expression for a node of that name, with its address.
func at(name string) string { return regexp.QuoteMeta(name) + `@` + hostPat }

// heard returns the texts of the messages to everyone, by the author of that
// name, that p has shown.
func (p *proc) heard(author string) []string {
	rx := regexp.MustCompile(`^` + stampPat + ` ` + at(author) + `: (.*)$`)
	var texts []string
	for _, l := range p.out.lines() {
		if m := rx.FindStringSubmatch(l); m != nil {
			texts = append(texts, m[1])
		}
	}
	return texts
}

// mark sends a message that is seen by all others, and returns when it is:
// what from said before is with them too, or will never be.
func mark(from *proc, others ...*proc) string {
	from.t.Helper()
	text := "mark " + rand.Text()
	from.say(text)
	for _, p := range others {
		p.sees(patience, `: `+text+`$`)
	}
	return text
}

// carry writes raw bytes into from, and returns the texts that to has shown
// for it.
func carry(from, to *proc, raw string) []string {
	from.t.Helper()
	before := len(to.heard(from.name))
	if _, err := from.in.Write([]byte(raw)); err != nil {
		from.t.Fatalf("%s: write: %v", from.name, err)
	}
	m := mark(from, to)
	texts := to.heard(from.name)[before:]
	return texts[:slices.Index(texts, m)]
}

// refusals returns the lines on standard error that complain: all but the
// first one, which says who and where we are.
func (p *proc) refusals() []string {
	all := p.err.lines()
	return all[min(1, len(all)):]
}

var refusal = regexp.MustCompile(`^p2pchat: .+; .+$`) // what is wrong; what to do

// refuses makes p read a line, and wants exactly one line of complaint that
// matches re.
func refuses(p *proc, line, re string) {
	p.t.Helper()
	before := len(p.refusals())
	p.say(line)
	if err := p.err.waitFor(patience, func(text []byte) bool { return bytes.Count(text, []byte("\n")) > before+1 }); err != nil {
		p.t.Fatalf("%s: %q is not refused: %v", p.name, clip(line), err)
	}
	got := p.refusals()[before:]
	if len(got) != 1 || !refusal.MatchString(got[0]) || !regexp.MustCompile(re).MatchString(got[0]) {
		p.t.Errorf("%s: %q is refused with %q, want one line `p2pchat: what is wrong; what to do` that matches %q", p.name, clip(line), got, re)
	}
}

// ends wants p to end with that exit status.
func ends(p *proc, within time.Duration, status int) {
	p.t.Helper()
	if got := p.exits(within); got != status {
		p.t.Errorf("%s: exit status %d, want %d", p.name, got, status)
	}
}

// memberLines asks p for /members and returns the answer.
func memberLines(p *proc) []string {
	p.t.Helper()
	skip, before := len(p.out.lines()), p.count(historyFrame)
	p.say("/members", "/history 1") // whose frame ends what went before
	p.seesCount(patience, before+1, historyFrame)
	return slices.DeleteFunc(p.out.lines()[skip:], func(l string) bool { return !strings.Contains(l, " * member ") })
}

// members asks p for /members and returns the others, as name@ip:port.
func members(p *proc) []string {
	p.t.Helper()
	rx := regexp.MustCompile(`^` + stampPat + ` \* member (` + namePat + `@[\d.]+:\d+) (?:idle )?since `)
	var who []string
	for _, l := range memberLines(p) {
		if f := rx.FindStringSubmatch(l); f != nil {
			who = append(who, f[1])
		}
	}
	return who
}

// memberOf is the only one of members with that name.
func memberOf(p *proc, name string) string {
	p.t.Helper()
	for _, who := range members(p) {
		if strings.HasPrefix(who, name+"@") {
			return who
		}
	}
	p.t.Fatalf("%s: %s is no member", p.name, name)
	return ""
}

// freeze stops the process as kill -STOP does, and returns when it stands
// still: what is sent to it afterwards is not read.
func freeze(p *proc) {
	p.t.Helper()
	pid := strconv.Itoa(p.cmd.Process.Pid)
	must(p.t, exec.Command("kill", "-STOP", pid).Run())
	for range 1000 {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") T ") {
			return // stopped, or a system that doesn't say
		}
		time.Sleep(time.Millisecond)
	}
	p.t.Fatalf("%s: doesn't stop", p.name)
}

// thaw lets a frozen process go on.
func thaw(p *proc) {
	p.t.Helper()
	must(p.t, exec.Command("kill", "-CONT", strconv.Itoa(p.cmd.Process.Pid)).Run())
}

// file writes a file for a test.
func file(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// open opens a file for a program under test.
func open(t testing.TB, path string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flag, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// fullPipe returns the writing end of a pipe that nobody reads, and that takes
// no further byte.
func fullPipe(t testing.TB) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	w.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	for err == nil {
		_, err = w.Write(make([]byte, 1<<16))
	}
	return w
}

func withError(f *os.File) setup { return func(c *exec.Cmd) { c.Stderr = f } }

// unclean says what stands in a line that could move a cursor, hide or
// reorder text, or end the line; "" is the answer for a clean one.
func unclean(line string) string {
	if !utf8.ValidString(line) {
		return "invalid UTF-8"
	}
	runes := []rune(line)
	for i, r := range runes {
		switch {
		case r == '\t':
		case r == '\u200d' && i > 0 && i+1 < len(runes) && emojiPart(runes[i-1]) && emojiPart(runes[i+1]):
		case r == '\u200c' || r == '\u200d':
			before := runes[:i]
			for len(before) > 0 && unicode.Is(unicode.M, before[len(before)-1]) && unicode.Is(unicode.Inherited, before[len(before)-1]) {
				before = before[:len(before)-1]
			}
			if len(before) == 0 || !takesJoiner(before[len(before)-1]) {
				return fmt.Sprintf("%U", r)
			}
		case (r == '\u200e' || r == '\u200f' || r == '\u061c') && rightToLeft.MatchString(line):
		case 0xe0020 <= r && r <= 0xe007f && strings.ContainsRune(line[:strings.IndexRune(line, r)], 0x1f3f4):
			// A tag of a flag, as England's.
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			return fmt.Sprintf("%U", r)
		}
	}
	return ""
}

var rightToLeft = regexp.MustCompile(`[\x{590}-\x{8ff}\x{fb1d}-\x{fdff}\x{fe70}-\x{fefc}\x{10800}-\x{10fff}\x{1e800}-\x{1efff}]`)

var joinerless = regexp.MustCompile(`[\p{Latin}\p{Greek}\p{Cyrillic}\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Common}\p{Inherited}]`)

// takesJoiner says whether r is a letter or mark of a script that uses joiners.
func takesJoiner(r rune) bool {
	return (unicode.IsLetter(r) || unicode.IsMark(r)) && !joinerless.MatchString(string(r))
}

// emojiPart says whether r may stand next to the joiner of an emoji.
func emojiPart(r rune) bool {
	return r == '\ufe0f' || unicode.Is(unicode.So, r) || unicode.Is(unicode.Sk, r)
}

func TestPipedLineReachesEveryNodeEachTime(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 3, 10} {
		t.Run(fmt.Sprintf("room of %d", size), func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			var names []string
			for i := range size {
				names = append(names, fmt.Sprintf("Node%d", i))
			}
			room := company(t, port, names...)
			var took []time.Duration
			runs := long(8, 200)
			for i := range runs {
				text := fmt.Sprintf("run %d of %d", i, runs)
				from := time.Now()
				bot := startNode(t, port, []string{"-wait", "20s", "Bot"}, withInput(strings.NewReader(text))) // a busy machine is no silent room
				if code := bot.exits(patience); code != 0 {
					t.Fatalf("run %d: exit status %d, want 0", i, code)
				}
				took = append(took, time.Since(from))
				for _, p := range room {
					p.sees(patience, at("Bot")+`: `+text+`$`)
					p.seesCount(patience, i+1, `\* `+at("Bot")+` left$`)
				}
			}
			for _, p := range room {
				for what, want := range map[string]int{"joined": runs, "left": runs, "lost": 0, "is back": 0} {
					if got := p.count(`\* ` + at("Bot") + ` ` + what + `$`); got != want {
						t.Errorf("%s shows Bot %s %d times, want %d", p.name, what, got, want)
					}
				}
				if got := len(p.heard("Bot")); got != runs {
					t.Errorf("%s has %d messages, want %d", p.name, got, runs)
				}
			}
			slices.Sort(took)
			t.Logf("median %v, slowest %v", took[runs/2].Round(time.Millisecond), took[runs-1].Round(time.Millisecond))
		})
	}
}

// pastFrozenAnn pipes a line into a room of Tim and of Ann, who is stopped.
func pastFrozenAnn(t *testing.T, line string, code int) (tim, bot *proc) {
	t.Helper()
	ps := company(t, freePort(t), "Tim", "Ann")
	tim, ann := ps[0], ps[1]
	bot = chat(t, roomOf(tim), []string{"-wait", "3s", "Bot"})
	haveMet(bot, tim, ann)
	freeze(ann)
	bot.say(line)
	bot.closeInput()
	ends(bot, patience, code)
	return tim, bot
}

func TestPipeEndsAsItsInputSays(t *testing.T) {
	t.Parallel()
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		for text, n := range map[string]int{"hi": 1, "one\ntwo\nthree\n": 3} {
			from := time.Now()
			p := chat(t, freePort(t), []string{"-wait", "300ms", "Bot"}, withInput(strings.NewReader(text)))
			ends(p, patience, 1)
			if took := time.Since(from); took < 300*time.Millisecond {
				t.Errorf("%q: waited %v, want at least 300ms", text, took)
			}
			p.complains(patience, fmt.Sprintf(`^p2pchat: .*\b%d messages?\b`, n))
		}
	})
	t.Run("nothing to say", func(t *testing.T) {
		t.Parallel()
		for _, text := range []string{"", "\n\r\n\n"} {
			p := chat(t, freePort(t), []string{"-wait", "5m", "Bot"}, withInput(strings.NewReader(text)))
			ends(p, patience, 0)
		}
		empty := open(t, file(t, "empty", ""), os.O_RDONLY)
		ends(chat(t, freePort(t), []string{"-wait", "5m", "Bot"}, withInput(empty)), patience, 0)
	})
	t.Run("a file", func(t *testing.T) {
		t.Parallel()
		port := freePort(t)
		tim := chat(t, port, []string{"Tim"})
		bot := chat(t, port, []string{"-wait", "20s", "Bot"}, withInput(open(t, file(t, "input", "from a file\n"), os.O_RDONLY)))
		ends(bot, patience, 0)
		tim.sees(patience, at("Bot")+`: from a file$`)
		tim.sees(patience, at("Bot")+` left$`)
	})
	t.Run("a directory", func(t *testing.T) {
		t.Parallel()
		bot := chat(t, freePort(t), []string{"Bot"}, withInput(open(t, t.TempDir(), os.O_RDONLY)))
		ends(bot, patience, 1)
		bot.complains(patience, `^p2pchat: cannot read standard input`)
	})
	t.Run("a refused line", func(t *testing.T) {
		t.Parallel()
		port := freePort(t)
		tim := chat(t, port, []string{"Tim"})
		bot := chat(t, port, []string{"-wait", "20s", "Bot"}, withInput(strings.NewReader("/nonsense\nhello\n")))
		ends(bot, patience, 1)
		tim.sees(patience, at("Bot")+`: hello$`)
		bot.complains(patience, `^p2pchat: .*nonsense`)
	})
	t.Run("a direct message not taken", func(t *testing.T) {
		t.Parallel()
		_, bot := pastFrozenAnn(t, "@Ann are you there?", 1)
		bot.complains(patience, `Ann.*are you there\?`)
	})
	t.Run("whoever heard it left", func(t *testing.T) {
		t.Parallel()
		port := freePort(t)
		tim, bot := chat(t, port, []string{"Tim"}), chat(t, port, []string{"-wait", "5m", "Bot"})
		haveMet(tim, bot)
		bot.say("good night")
		tim.sees(patience, at("Bot")+`: good night$`)
		tim.closeInput()
		bot.sees(patience, at("Tim")+` left$`)
		bot.closeInput()
		ends(bot, patience, 0)
	})
	t.Run("one node silent", func(t *testing.T) {
		t.Parallel()
		tim, bot := pastFrozenAnn(t, "is everybody there?", 0)
		tim.sees(patience, at("Bot")+`: is everybody there\?$`)
		bot.complains(patience, `Ann`)
	})
}

// A numberedLines is a standard output that checks that the messages of one
// author are line 1, line 2, … without keeping them.
type numberedLines struct {
	last    int
	partial []byte
	err     error
}

func (n *numberedLines) Write(b []byte) (int, error) {
	n.partial = append(n.partial, b...)
	rest := n.partial
	for {
		l, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			break
		}
		rest = after
		_, num, ok := bytes.Cut(l, []byte(": this is line number "))
		if !ok {
			continue // joined, left
		}
		n.last++
		if got := string(num); got != strconv.Itoa(n.last) && n.err == nil {
			n.err = fmt.Errorf("line %s where %d should be", got, n.last)
		}
	}
	n.partial = append(n.partial[:0], rest...)
	return len(b), nil
}

func TestFloodThroughPipeArrivesWholeAndInOrder(t *testing.T) {
	t.Parallel()
	lines := long(100_000, 1_000_000)
	var input bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&input, "padding that makes it as long as a line of a log: this is line number %d\n", i+1)
	}
	port := freePort(t)
	var got numberedLines
	tim := startNode(t, port, []string{"Tim"}, func(c *exec.Cmd) { c.Stdout = &got })
	tim.complains(patience, `Tim`) // is up
	null := open(t, os.DevNull, os.O_WRONLY)
	from := time.Now()
	bot := startNode(t, port, []string{"-wait", "20s", "Bot"}, withInput(&input), withOutput(null))
	ends(bot, 3*patience, 0)
	t.Logf("%d lines in %v", lines, time.Since(from).Round(time.Millisecond))
	tim.say("/exit") // whoever leaves in order has printed what it had
	ends(tim, patience, 0)
	if got.err != nil || got.last != lines {
		t.Errorf("%d of %d lines arrived: %v", got.last, lines, got.err)
	}
}

// Twenty times what they may keep passes through nodes that all speak at
// once: none of them prints less than all, or holds more than it should.
func TestSmallKeepLosesNothingOnTheWay(t *testing.T) {
	t.Parallel()
	lines, within := 110_000, 60*time.Second
	if raced() {
		lines = 8_000 // seven times the memory and the time
	}
	port := freePort(t)
	var nodes []*proc
	for _, name := range []string{"Ann", "Bob", "Cid", "Log"} {
		nodes = append(nodes, startNode(t, port, []string{"-keep", "1MiB", name}))
	}
	for _, p := range nodes {
		p.seesCount(within, len(nodes)-1, ` joined$`)
	}
	var wg sync.WaitGroup
	for _, p := range nodes[:3] {
		var text strings.Builder
		for i := range lines {
			fmt.Fprintf(&text, "%s counts %06d and so on and so forth to sixty bytes\n", p.name, i)
		}
		wg.Go(func() { p.in.Write([]byte(text.String())) }) // what is missing is seen below
	}
	wg.Wait()
	for _, p := range nodes {
		if err := p.out.waitFor(within, func(text []byte) bool {
			return bytes.Count(text, []byte(" counts ")) == 3*lines
		}); err != nil {
			t.Errorf("%s shows %d of %d lines: %v", p.name, strings.Count(p.out.String(), " counts "), 3*lines, err)
		}
		next := map[string]int{}
		rx := regexp.MustCompile(`: (\w+) counts (\d+)`)
		for _, m := range rx.FindAllStringSubmatch(p.out.String(), -1) {
			if n, _ := strconv.Atoi(m[2]); n != next[m[1]] {
				t.Fatalf("%s shows line %d of %s where %d should be", p.name, n, m[1], next[m[1]])
			}
			next[m[1]]++
		}
		if kb := p.status("VmHWM"); kb > 33<<10 && !raced() {
			t.Errorf("%s took %d kB of memory at its peak, want at most 33 MiB", p.name, kb)
		}
	}
}

func TestNullInputListensUntilTerminated(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	log := chat(t, port, []string{"Log"}, withNullInput())
	tim := chat(t, port, []string{"Tim"})
	tim.sees(patience, at("Log")+` joined$`)
	mark(tim, log)
	log.signal(syscall.SIGTERM)
	ends(log, leaving, 0)
	tim.sees(patience, `\* `+at("Log")+` left$`)
}

func TestBackgroundJobOfShellListens(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	// A shell without job control gives background jobs a null input, and
	// makes them ignore SIGINT.
	sh := start(t, "sh", []string{"sh", "-c", `"$0" "$@" & echo "pid $!" >&2; wait "$!"`,
		self(t), "-bind", "127.0.0.1", "-port", strconv.Itoa(port), "Log"})
	pid, err := strconv.Atoi(strings.TrimPrefix(sh.complains(patience, `^pid \d+$`), "pid "))
	must(t, err)
	job, err := os.FindProcess(pid)
	must(t, err)
	t.Cleanup(func() { job.Kill() })
	tim := chat(t, port, []string{"Tim"})
	tim.sees(patience, at("Log")+` joined$`)
	mark(tim, sh)
	must(t, job.Signal(syscall.SIGINT))
	mark(tim, sh)
	must(t, job.Signal(syscall.SIGTERM))
	ends(sh, patience, 0)
	tim.sees(patience, `\* `+at("Log")+` left$`)
}

func TestLineIsSentAsTyped(t *testing.T) {
	t.Parallel()
	ps := company(t, freePort(t), "Alex", "Tim")
	alex, tim := ps[0], ps[1]
	limit := strings.Repeat("x", 65536)
	for _, c := range []struct{ name, raw, want string }{
		{"plain", "hello\n", "hello"},
		{"CRLF", "hello\r\n", "hello"},
		{"empty lines", "\n\r\n\nhello\n\n", "hello"},
		{"leading spaces", "   hello\n", "   hello"},
		{"command after a space", " /exit\n", " /exit"},
		{"exit in a sentence", "exit now\n", "exit now"},
		{"two slashes", "//etc/hosts\n", "/etc/hosts"},
		{"three slashes", "///\n", "//"},
		{"two at signs", "@@Tim hello\n", "@Tim hello"},
		{"slash after what is no name", "and/or http://a.example/b\n", "and/or http://a.example/b"},
		{"slash after an address", "Tim@127.0.0.1/hello\n", "Tim@127.0.0.1/hello"},
		{"at sign inside", "write to a@b.example\n", "write to a@b.example"},
		{"TAB", "a\tb\n", "a\tb"},
		{"UTF-8", "żółw 日本語 אבג 🐢\n", "żółw 日本語 אבג 🐢"},
		{"Persian", "می\u200cخواهم\n", "می\u200cخواهم"},
		{"Hindi", "क्\u200dष\n", "क्\u200dष"},
		{"Hebrew", "C++\u200f זה שפה\n", "C++\u200f זה שפה"},
		{"family emoji", "a 👨‍👩‍👧‍👦 z\n", "a 👨‍👩‍👧‍👦 z"},
		{"rainbow flag", "🏳️‍🌈\n", "🏳️‍🌈"},
		{"skin tone and profession", "👩🏽‍🚀\n", "👩🏽‍🚀"},
		{"country flag and keycap", "🇩🇪 1️⃣\n", "🇩🇪 1️⃣"},
		{"flag with tags", "🏴󠁧󠁢󠁥󠁮󠁧󠁿\n", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"},
		{"bad bytes", "a\xff\xfez\n", "a\ufffd\ufffdz"},
		{"cut character", "a\xe2\x82z\n", "a\ufffd\ufffdz"},
		{"overlong slash", "\xc0\xaf\n", "\ufffd\ufffd"},
		{"surrogate", "\xed\xa0\x80\n", "\ufffd\ufffd\ufffd"},
		{"longest line", limit + "\n", limit},
		{"longest line, all bad bytes", strings.Repeat("\xff", 65536) + "\n", strings.Repeat("\ufffd", 65536)},
	} {
		if got := carry(alex, tim, c.raw); len(got) != 1 || got[0] != c.want {
			t.Errorf("%s: %q arrives as %q, want %q", c.name, clip(c.raw), clip(strings.Join(got, "\n")), clip(c.want))
		}
	}
	for _, n := range []int{65537, 10_000_000} {
		before := len(alex.refusals())
		if got := carry(alex, tim, strings.Repeat("x", n)+"\nnext\n"); len(got) != 1 || got[0] != "next" {
			t.Errorf("after a line of %d bytes, %q arrives, want %q", n, clip(strings.Join(got, "\n")), "next")
		}
		alex.complains(patience, fmt.Sprintf(`^p2pchat: .*\b%d\b`, n))
		if got := len(alex.refusals()) - before; got != 1 {
			t.Errorf("a line of %d bytes brings %d lines of complaint, want 1", n, got)
		}
	}
	// Without a last line feed the line counts all the same.
	alex.in.Write([]byte("the end"))
	alex.closeInput()
	tim.sees(patience, at("Alex")+`: the end$`)
	ends(alex, patience, 1) // for the refused lines
}

func TestHostileTextShowsAsOneCleanLine(t *testing.T) {
	t.Parallel()
	ps := company(t, freePort(t), "Alex", "Tim")
	alex, tim := ps[0], ps[1]
	cases := map[string]string{
		"colour":            "\x1b[31m",
		"clear screen":      "\x1b[2J\x1b[H",
		"clipboard, BEL":    "\x1b]52;c;aGVsbG8=\x07",
		"clipboard, ST":     "\x1b]52;c;aGVsbG8=\x1b\\",
		"title":             "\x1b]0;owned\x07",
		"device string":     "\x1bP+q544e\x1b\\",
		"full reset":        "\x1bc",
		"C1 CSI":            "\u009b2J",
		"C1 OSC":            "\u009d52;c;aGVsbG8=\u009c",
		"next line":         "\u0085",
		"raw C1 byte":       "\x9b2J",
		"carriage return":   "\r2026-01-01 00:00:00 Tim (me): forged",
		"backspaces":        "\b\b\b\b",
		"vertical":          "\v\f",
		"bell":              "\x07",
		"NUL":               "\x00",
		"DEL":               "\x7f",
		"line separator":    "\u20282026-01-01 00:00:00 Tim (me): forged",
		"paragraph":         "\u2029",
		"bidi override":     "\u202egnp.exe\u202c",
		"bidi isolate":      "\u2067abc\u2069",
		"bidi marks":        "\u200e\u200f\u061c",
		"zero-width space":  "\u200b",
		"joiner in a word":  "x\u200dy",
		"non-joiner":        "x\u200cy",
		"word joiner":       "\u2060",
		"byte order mark":   "\ufeff",
		"soft hyphen":       "\u00ad",
		"language tag":      "\U000e0001\U000e0065",
		"annotation":        "\ufff9x\ufffay\ufffb",
		"combining flood":   "e" + strings.Repeat("\u0301", 2000),
		"overlong C0":       "\xc0\x9b",
		"every C0 but LF":   "\x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f",
		"percent and quote": "%s%n\\x1b\"'",
	}
	for r := rune(0x80); r < 0xa0; r++ {
		cases[fmt.Sprintf("C1 %U", r)] = string(r)
	}
	names := slices.Sorted(maps.Keys(cases))
	for _, name := range names {
		alex.say("<" + cases[name] + ">")
	}
	mark(alex, tim)
	got := tim.heard("Alex")
	if len(got) != len(names)+1 {
		t.Fatalf("%d lines show as %d: %q", len(names), len(got)-1, got)
	}
	for i, name := range names {
		if !strings.HasPrefix(got[i], "<") || !strings.HasSuffix(got[i], ">") || len(got[i]) < 3 {
			t.Errorf("%s: %q shows as %q, want something visible between < and >", name, cases[name], got[i])
		}
		if why := unclean(got[i]); why != "" {
			t.Errorf("%s: %q shows as %q, with %s", name, cases[name], got[i], why)
		}
	}
	for _, p := range ps {
		if got := p.history(patience); len(got) < len(cases) { // how clean they are is seen at the end
			t.Errorf("%s: /history has %d lines, want at least %d", p.name, len(got), len(cases))
		}
	}
}

func TestVerbatimSendsEverything(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	tim := chat(t, port, []string{"Tim"})
	lines := []string{"/exit", "exit", "quit", "/quit", "/nonsense", "//", "@@x", "@Tim private?", "Tim/private?", " x", "/history", "last"}
	input := "\n" + strings.Join(lines, "\n\r\n")
	alex := chat(t, port, []string{"-verbatim", "-wait", "20s", "Alex"}, withInput(strings.NewReader(input)))
	ends(alex, patience, 0)
	tim.sees(patience, at("Alex")+`: last$`)
	if got := tim.heard("Alex"); !slices.Equal(got, lines) {
		t.Errorf("arrived: %q\nwant:    %q", got, lines)
	}
}

func TestFlagsStandBeforeOrAfterTheName(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	tim := chat(t, port, []string{"Tim"})
	for i, args := range [][]string{
		{"-verbatim", "-wait", "20s", "Bot"},
		{"Bot", "-verbatim", "-wait", "20s"},
		{"-verbatim", "Bot", "-wait=20s"},
	} {
		text := fmt.Sprintf("/not a command %d", i)
		bot := chat(t, port, args, withInput(strings.NewReader(text)))
		ends(bot, patience, 0)
		tim.sees(patience, at("Bot")+`: `+text+`$`)
	}
}

func TestMembersListsEveryoneOnce(t *testing.T) {
	t.Parallel()
	ps := company(t, freePort(t), "Alex", "Tim", "Tim Cook", "Zoë 👩🏽‍🚀", "Tim")
	for i, p := range ps {
		var want []string
		for j, q := range ps {
			if i != j {
				want = append(want, q.name)
			}
		}
		// Namesakes are met one by one, so wait for both.
		p.seesCount(patience, strings.Count(strings.Join(want, "|")+"|", "Tim|"), `\* `+at("Tim")+` joined$`)
		var got []string
		all := members(p)
		for _, who := range all {
			got = append(got, who[:strings.LastIndexByte(who, '@')])
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s has members %q, want %q", p.name, got, want)
		}
		slices.Sort(all)
		if len(slices.Compact(all)) != len(want) {
			t.Errorf("%s lists a member twice: %q", p.name, all)
		}
		if got := p.count(`\* member ` + regexp.QuoteMeta(p.name) + ` \(me\)$`); got != 1 {
			t.Errorf("%s lists itself %d times, want 1", p.name, got)
		}
	}
}

func TestHistoryShowsEventsInOrder(t *testing.T) {
	t.Parallel()
	ps := company(t, freePort(t), "Alex", "Tim")
	alex, tim := ps[0], ps[1]
	var want []string
	for i := range 5 {
		from, to := ps[i%2], ps[(i+1)%2]
		want = append(want, mark(from, to))
		from.sees(patience, `\(me\): `+want[i]+`$`)
	}
	for _, p := range ps {
		got := p.history(patience)
		if !slices.IsSortedFunc(got, func(a, b string) int { return strings.Compare(a[:19], b[:19]) }) {
			t.Errorf("%s: /history is not in order of time: %q", p.name, got)
		}
		var said []string
		own := 0
		for _, l := range got {
			if i := strings.Index(l, ": mark "); i >= 0 {
				said = append(said, l[i+2:])
			}
			if strings.HasSuffix(l, " * "+p.name+" (me) joined") {
				own++
			}
		}
		if !slices.Equal(said, want) {
			t.Errorf("%s: /history has %q, want %q", p.name, said, want)
		}
		if own != 1 {
			t.Errorf("%s: /history shows one's own start %d times, want 1", p.name, own)
		}
		// The frame counts its lines.
		p.sees(patience, fmt.Sprintf(`\* history: %d events?$`, len(got)))
	}
	alex.say("/history 2")
	alex.sees(patience, `\* history: 2 events$`)
	alex.seesCount(patience, 2, `\* end of history$`)
	lines := alex.out.lines()
	for i, l := range lines {
		if strings.HasSuffix(l, "* history: 2 events") {
			got := lines[i+1 : i+4]
			if !strings.HasSuffix(got[0], want[3]) || !strings.HasSuffix(got[1], want[4]) || !strings.HasSuffix(got[2], "* end of history") {
				t.Errorf("/history 2 shows %q, want %q", got, want[3:])
			}
		}
	}
	tim.say("/history 1000000")
	tim.seesCount(patience, 2, `\* end of history$`)
}

func TestRenameIsSeenByEveryone(t *testing.T) {
	t.Parallel()
	ps := company(t, freePort(t), "Alex", "Tim")
	alex, tim := ps[0], ps[1]
	tim.say("/name Tim Cook", "hello")
	alex.sees(patience, `\* `+at("Tim")+` is now Tim Cook$`)
	alex.sees(patience, ` `+at("Tim Cook")+`: hello$`)
	tim.sees(patience, ` Tim Cook \(me\): hello$`)
	alex.say("@Tim Cook congratulations")
	tim.sees(patience, at("Alex")+` -> me: congratulations$`)
	tim.say("/exit")
	alex.sees(patience, `\* `+at("Tim Cook")+` left$`)
	ends(tim, patience, 0)
	if n := tim.count(`is now`); n != 0 {
		t.Errorf("Tim is shown his own renaming %d times, want it in /history only", n)
	}
}

func TestHoorayGreetsEveryone(t *testing.T) {
	t.Parallel()
	ps := company(t, freePort(t), "Alex", "Tim", "Ann")
	ps[0].say("/hooray")
	ps[0].sees(patience, ` Alex \(me\): .+`)
	for _, p := range ps[1:] {
		p.sees(patience, ` `+at("Alex")+`: .+`)
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	t.Parallel()
	p := startNode(t, freePort(t), []string{"Alex"})
	p.say("/help")
	for _, word := range []string{"@WHO text", "/text", "/members", "/history", "/name", "/hooray", "/help", "/exit", "/quit", "//", "@@"} {
		p.sees(patience, `^`+stampPat+` \* .*`+regexp.QuoteMeta(word))
	}
	for _, l := range p.out.lines() {
		if !regexp.MustCompile(`^` + stampPat + ` \* .*\S$`).MatchString(l) {
			t.Errorf("line outside the grammar: %q", l)
		}
	}
}

func TestLeavingByCommand(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	tim := chat(t, port, []string{"Tim"})
	for i, line := range []string{"/exit", "/quit", "/exit\r"} {
		name := fmt.Sprintf("Guest%d", i)
		p := chat(t, port, []string{name})
		haveMet(p, tim)
		p.say(line)
		ends(p, patience, 0)
		tim.sees(patience, `\* `+at(name)+` left$`)
		if said := tim.heard(name); len(said) != 0 {
			t.Errorf("%q is sent as %q", line, said)
		}
	}
}

func TestExitEndsTheInputOfAPipe(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	tim := chat(t, room, []string{"Tim"})
	for i, c := range []struct {
		name, input, want string
		behind            bool
	}{
		{"bare words are messages", "one\nexit\nquit\r\ntwo\n", "one exit quit two", false},
		{"nothing behind it", "one\n/exit\n", "one", false},
		{"no line end", "one\n/quit", "one", false},
		{"empty lines behind it", "one\n/exit\r\n\n\r\n", "one", false},
		{"a line behind it", "one\n/exit\ntwo\n", "one", true},
		{"a long line behind it", "one\n/quit\n" + strings.Repeat("x", 1<<20), "one", true},
		{"nothing but lines behind it", "/exit\ntwo\n", "", true},
	} {
		name := fmt.Sprint("Bot", i)
		bot := chat(t, room, []string{"-wait", "20s", name}, withInput(strings.NewReader(c.input)))
		status := 0
		if c.behind {
			status = 1
		}
		ends(bot, patience, status)
		if got := bot.refusals(); c.behind && (len(got) != 1 || !refusal.MatchString(got[0]) || !strings.Contains(got[0], "not read")) || !c.behind && len(got) != 0 {
			t.Errorf("%s: standard error says %q", c.name, got)
		}
		if len(c.want) > 0 {
			tim.sees(patience, `\* `+at(name)+` left$`)
		}
		if got := strings.Join(tim.heard(name), " "); got != c.want {
			t.Errorf("%s: %q arrives, want %q", c.name, got, c.want)
		}
	}
}

// TestExitLooksAMomentForWhatStandsBehindIt in a pipe that is still open.
func TestExitLooksAMomentForWhatStandsBehindIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		after time.Duration
		want  bool
	}{
		{"two\n", farewell / 2, true}, {"\r\n\nx", farewell / 2, true}, {"\n\r\n", farewell / 2, false}, {"two\n", 2 * farewell, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			defer w.Close()
			time.AfterFunc(c.after, func() { io.WriteString(w, c.text) })
			began := time.Now()
			if got := goesOn(bufio.NewReader(r)); got != c.want || time.Since(began) > farewell {
				t.Errorf("%q after %v: there is more: %v after %v, want %v", c.text, c.after, got, time.Since(began), c.want)
			}
			time.Sleep(c.after)
		})
	}
}

func TestWhatLooksPrivateIsNotSaidToAll(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	table := file(t, "peers", fmt.Sprintf("Ghost 127.0.0.1:%d\n", freePort(t)))
	ps := company(t, room, "Tim", "Jos\u00e9", "\u0130pek", "Stra\u00dfe", "Anna Lena", "\uac00\u304c\u0958")
	nearly := []string{
		" @Tim x", "\t@Tim x", "\u00a0@Tim x", "\u3000 @Tim x", "\u200b@Tim x", " @Tim", " @tim x", " @Tim@127.0.0.1 x", " @127.0.0.1 x", " @Ghost x",
		"tim/x", "TIM/x", "Jose\u0301/x", "JOS\u00c9/x", "JOSE\u0301/x", "ghost/x",
		" @Tim\tx", " @Tim\u00a0x", " @Tim: x", " @Tim, x", " @Tim-x", " @127.0.0.1: x", "\uff20Tim x", " \uff20Tim x", " @T\u200bim x",
		"I\u0307pek/x", "i\u0307pek/x", "ipek/x", " @ipek x", " @I\u0307pek x", "STRASSE/x", "\u1100\u1161\u304b\u3099\u0915\u093c/x",
		"Anna  Lena/x", "Anna\u00a0Lena/x", " @Anna  Lena x", "Anna\u200b Lena/x", "\u200bTim/x", "Tim\u00a0/x", "\u00a0Tim/x",
	}
	publicly := []string{"and/or", "9/11", "  indented", " @nobody-here", " @Timothy x", "  Tim/x", " tim/x", "Jose/x", "tom/x", "Tim /x", " an @Tim within", "x@Tim y",
		" @127.0.0.12 x", "Anna/x", "\u304b/x"}
	bot := chat(t, room, []string{"-wait", "20s", "-peers", table, "Bot"},
		withInput(strings.NewReader(strings.Join(slices.Concat(nearly, publicly), "\n"))))
	ends(bot, patience, 1)
	got := bot.refusals()
	if len(got) != len(nearly) {
		t.Errorf("%d near misses are refused with %d lines", len(nearly), len(got))
	}
	for i, l := range got {
		if !refusal.MatchString(l) || unclean(l) != "" {
			t.Errorf("%q is refused with %q", nearly[i], l)
		}
	}
	for _, p := range ps {
		p.sees(patience, `\* `+at("Bot")+` left$`)
		if got := p.heard("Bot"); !slices.Equal(got, publicly) {
			t.Errorf("%s hears %q, want %q", p.name, got, publicly)
		}
	}
	bot = chat(t, room, []string{"-wait", "20s", "Bot"}, withInput(strings.NewReader("Jose\u0301/x")))
	ends(bot, patience, 1)
	bot.complains(patience, `"Jos\x{e9}" differs in how an accent is composed`)
	// The first line of a pipe is read before anybody is met.
	for i, line := range []string{" @Tim x", "tim/x", "Jose\u0301/x"} {
		name := fmt.Sprint("Bot", i)
		bot := chat(t, room, []string{"-wait", "20s", name}, withInput(strings.NewReader(line)))
		ends(bot, patience, 1)
		if got := bot.refusals(); len(got) != 1 || len(ps[0].heard(name)) != 0 {
			t.Errorf("%q is refused with %q, and Tim hears %q", line, got, ps[0].heard(name))
		}
	}
	bot = chat(t, room, []string{"-wait", "20s", "Bot3"}, withInput(strings.NewReader("Tim/for you alone")))
	ends(bot, patience, 0)
	ps[0].sees(patience, at("Bot3")+` -> me: for you alone$`)
	// With nobody there, it is not waited for ever.
	bot = chat(t, freePort(t), []string{"-wait", "100ms", "Bot"}, withInput(strings.NewReader(strings.Repeat("and/or\n", 1000))))
	ends(bot, patience, 1) // 1000 times -wait is far more
	bot.complains(patience, `nobody heard 1000 of 1000`)
}

// TestOnlyWhatMayBePrivateWaits until somebody is there, and a command until what
// stands before it is said. Whoever doesn't want to wait any longer is told.
func TestOnlyWhatMayBePrivateWaits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ input, shows, complaint, flag string }{
		{"one\nand/or\n", `: one$`, `nobody heard \d of \d`, "-wait=1h"},
		{"@Tim one\nand/or\n", `: and/or$`, `nobody heard 2 of 2`, "-verbatim"},
		{"one\n/history 1\n/help\n", `: one\n(.*\n)*.*: one$`, `nobody heard 1 of 1`, "-wait=1h"},
		{"/help\n@Tim one\n", `/help`, `nobody here is called "Tim"`, "-wait=1h"},
	} {
		bot := startNode(t, freePort(t), []string{"-wait", "1h", c.flag, "Bot"})
		io.WriteString(bot.in, c.input)
		rx := regexp.MustCompile(`(?m)` + c.shows)
		if err := bot.out.waitFor(patience, rx.Match); err != nil {
			t.Fatalf("%q: %s is not shown: %v", c.input, c.shows, err)
		}
		bot.signal(syscall.SIGTERM)
		ends(bot, leaving, 1)
		bot.complains(patience, c.complaint)
	}
}

func TestByteOrderMarkIsNoPartOfTheInput(t *testing.T) {
	t.Parallel()
	const mark = "\ufeff"
	room := freePort(t)
	tim := chat(t, room, []string{"Tim"})
	for i, c := range []struct{ input, want string }{
		{mark + "@Tim pin 4711\n", ` -> me: pin 4711`},
		{mark + "hello", `: hello`},
		{mark + strings.Repeat("x", maxLine) + "\n", ": " + strings.Repeat("x", maxLine)},
		{"a" + mark + "\n", `: a<U\+FEFF>`},
		{"\xefab\n", ": \ufffdab"},
	} {
		bot := chat(t, room, []string{"-wait", "20s", fmt.Sprint("Bot", i)}, withInput(strings.NewReader(c.input)))
		ends(bot, patience, 0)
		tim.sees(patience, regexp.QuoteMeta(bot.name)+`@\S+`+c.want+`$`)
	}
	bot := chat(t, room, []string{"-verbatim", "-wait", "20s", "Bot"}, withInput(strings.NewReader(mark+"@Tim is a name\n")))
	ends(bot, patience, 0)
	tim.sees(patience, at("Bot")+`: @Tim is a name$`)
	if got, err := parsePeersFile(mark+"Tim 127.0.0.1\n", 7700); err != nil || got[0].alias != "Tim" {
		t.Errorf("a table that begins with it: %v, %v", got, err)
	}
}

// TestShortLinesArriveWhole: so many lines of a letter, under a long name, are more than
// one post may have.
func TestShortLinesArriveWhole(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	tim := chat(t, room, []string{"Tim"})
	for i, name := range []string{"A", strings.Repeat("\U0001F600", maxName)} {
		const n = 5000
		letter := string(rune('a' + i))
		bot := chat(t, room, []string{"-wait", "20s", name}, withInput(strings.NewReader(strings.Repeat(letter+"\n", n))))
		ends(bot, patience, 0)
		tim.sees(patience, name+`@\S+ left$`)
		if got := tim.count(`: ` + letter + `$`); got != n {
			t.Errorf("%d lines of %d arrive under a name of %d bytes", got, n, len(name))
		}
	}
}

func TestEmptyPipeIsToldHowToListen(t *testing.T) {
	t.Parallel()
	for _, input := range []string{"", "\ufeff"} {
		p := chat(t, freePort(t), []string{"-wait", "5m", "Log"}, withInput(strings.NewReader(input)))
		ends(p, patience, 0)
		if got := p.refusals(); len(got) != 1 || !refusal.MatchString(got[0]) || !strings.Contains(got[0], "< /dev/null") {
			t.Errorf("input %q: standard error says %q, want one line that names < /dev/null", input, got)
		}
	}
	p := chat(t, freePort(t), []string{"Log"}, withInput(strings.NewReader("\n\r\n")))
	ends(p, patience, 0)
	if got := p.refusals(); len(got) != 0 {
		t.Errorf("of empty lines standard error says %q", got)
	}
}

func TestRefusedLineIsExplainedAndNotSent(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	tim, ann := chat(t, port, []string{"Tim"}), chat(t, port, []string{"Ann"})
	nobody := freePort(t)
	table := file(t, "peers", fmt.Sprintf("Ghost 127.0.0.1:%d\n", nobody))
	alex := chat(t, port, []string{"-wait", "100ms", "-peers", table, "Alex"})
	haveMet(alex, tim, ann)
	ann.say("/exit")
	alex.sees(patience, `\* `+at("Ann")+` left$`)
	for _, c := range []struct{ line, want string }{
		{"/frobnicate", `frobnicate`},
		{"/", `/`},
		{"/exits", `exits`},
		{"/Members", `Members`},
		{"/history x", `x`},
		{"/history -3", `-3`},
		{"/history 1.5", `1\.5`},
		{"/history 99999999999999999999", `9999`},
		{"/name", `name`},
		{"/name a@b", `a@b`},
		{"/name a  b", `name`},
		{"/name " + strings.Repeat("x", 33), `32`},
		{"/name bell\x07", `name`},
		{"/name a\u200bb", `name`},
		{"/name Jose\u0301", `one character`},
		{"/name q\u0323", `one character, if there is such a one, or leave the accent out`}, // there is none
		{"/\x1b]0;owned\x07\u202e", `owned`},
		{"@\x1b[31mRed\u2028 hello", `Red`},
		{"@Nobody hello", `Nobody.*@Tim@127\.0\.0\.1:\d+`},
		{"@Nobody@127.0.0.1 hello", `Nobody`},
		{"@127.0.0.2 hello", `127\.0\.0\.2`},
		{"@Tim@127.0.0.1:1 hello", `127\.0\.0\.1:1`},
		{"@tim hello", `"tim", and "Tim" differs in capitals;`}, // capitals count
		{"@Ti\u0301m hello", `nobody here is called "Ti\x{301}m";`},
		{"@Ghost hello", `Ghost.*not connected`},
		{"Ghost/hello", `Ghost.*not connected`},
		{"@Ann hello", `Ann`},
		{"Ann/hello", `Ann`},
	} {
		refuses(alex, c.line, c.want)
	}
	mark(alex, tim)
	if got := tim.heard("Alex"); len(got) != 1 {
		t.Errorf("Tim is sent %q of the refused lines", got[:len(got)-1])
	}
	for _, l := range alex.err.lines() {
		if why := unclean(l); why != "" {
			t.Errorf("standard error holds %s: %q", why, l)
		}
	}
	alex.closeInput()
	ends(alex, patience, 1)
}

func TestEveryRefusedLineOfAPipeIsTold(t *testing.T) {
	t.Parallel()
	const lines = 3000
	long := strings.Repeat("x", 2*maxUnread/lines) // together they are more than may wait for standard error
	var input strings.Builder
	for i := range lines {
		fmt.Fprintf(&input, "/nonsense%d/%s\n", i, long)
	}
	name := file(t, "errors", "") // a file keeps nobody waiting, as a pipe may
	p := startNode(t, freePort(t), []string{"-wait", "100ms", "Bot"}, withInput(open(t, file(t, "input", input.String()), os.O_RDONLY)), withError(open(t, name, os.O_WRONLY)))
	ends(p, patience, 1)
	text, err := os.ReadFile(name)
	must(t, err)
	got := strings.Split(string(text), "\n")[1:] // behind the line that says who and where it is
	for i := range lines {
		if i >= len(got) || !strings.Contains(got[i], fmt.Sprintf("/nonsense%d/", i)) {
			t.Fatalf("%d lines are refused, and %d are told; the first that is missing is /nonsense%d", lines, len(got), i)
		}
	}
}

func TestDirectMessageReachesItsReceiverAlone(t *testing.T) {
	t.Parallel()
	ps := company(t, freePort(t), "Alex", "Tim", "Tim Cook", "Ann")
	alex, tim, cook, ann := ps[0], ps[1], ps[2], ps[3]
	timAt, cookAt := memberOf(alex, "Tim"), memberOf(alex, "Tim Cook")
	addr := func(who string) string { return who[strings.LastIndexByte(who, '@')+1:] }
	for i, c := range []struct {
		to   *proc
		form string
	}{
		{tim, "@Tim %s"},
		{tim, "Tim/%s"},
		{tim, "@" + timAt + " %s"},
		{tim, "@" + addr(timAt) + " %s"},
		{cook, "@Tim Cook %s"}, // not "Cook …" for Tim
		{cook, "Tim Cook/%s"},
		{cook, "@" + cookAt + " %s"},
		{cook, "@" + addr(cookAt) + " %s"},
		{cook, "@Tim Cook@127.0.0.1 %s"},
		{ann, "@Ann@127.0.0.1 %s"},
		{ann, "Ann/%s"},
	} {
		text := fmt.Sprintf("secret-%d with a/slash, @sign and /exit", i)
		alex.say(fmt.Sprintf(c.form, text))
		c.to.sees(patience, `^`+stampPat+` `+at("Alex")+` -> me: `+text+`$`)
		alex.sees(patience, `^`+stampPat+` Alex \(me\) -> `+at(c.to.name)+`: `+text+`$`)
		mark(alex, tim, cook, ann)
		for _, p := range ps[1:] {
			want := 0
			if p == c.to {
				want = 1
			}
			if got := p.count(`secret-` + strconv.Itoa(i) + ` `); got != want {
				t.Errorf("%s: %s shows it %d times, want %d", c.form, p.name, got, want)
			}
		}
	}
	// Who comes later learns nothing of them either.
	bea := chat(t, roomOf(alex), []string{"Bea"})
	haveMet(bea, alex)
	mark(alex, bea)
	if n := bea.count(`secret-`); n != 0 {
		t.Errorf("a newcomer's history holds %d lines of direct messages", n)
	}
}

func TestDirectMessageByAddressOrShorterName(t *testing.T) {
	t.Parallel()
	ps := company(t, freePort(t), "Alex", "Tim")
	alex, tim := ps[0], ps[1]
	for line, want := range map[string]string{
		"@127.0.0.1 by address":                    "by address",
		"@Tim Cook is not here":                    "Cook is not here",
		"@Tim   spaces":                            "spaces",
		"@Tim ünïcödé 👨‍👩‍👧":                       "ünïcödé 👨‍👩‍👧",
		"@Tim /exit":                               "/exit",
		"Tim/@Tim twice":                           "@Tim twice",
		"@Tim@127.0.0.1 name and host":             "name and host",
		"@" + memberOf(alex, "Tim") + " all of it": "all of it",
	} {
		alex.say(line)
		tim.sees(patience, at("Alex")+` -> me: .*`+regexp.QuoteMeta(want)+`$`)
	}
	if got := alex.refusals(); len(got) != 0 {
		t.Errorf("refused: %q", got)
	}
}

func TestManyDirectMessagesArriveInOrder(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	tim := chat(t, room, []string{"Tim"})
	ann := chat(t, room, []string{"Ann"})
	haveMet(tim, ann)
	var input strings.Builder
	var want []string
	for i := range 2000 {
		want = append(want, fmt.Sprintf("part %d", i))
		fmt.Fprintf(&input, "@Tim %s\n", want[i])
	}
	alex := chat(t, room, []string{"-wait", "20s", "Alex"}, withInput(strings.NewReader(input.String())))
	ends(alex, patience, 0)
	tim.sees(patience, at("Alex")+` -> me: part 1999$`)
	var got []string
	for _, l := range tim.out.lines() {
		if _, text, ok := strings.Cut(l, " -> me: "); ok {
			got = append(got, text)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d messages arrived of %d, or in another order", len(got), len(want))
	}
	if n := ann.count(`part`); n != 0 {
		t.Errorf("Ann has %d of them", n)
	}
}

func TestNamesakesAreToldApartByAddress(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	one := chat(t, room, []string{"Tim"})
	alex := chat(t, room, []string{"Alex"})
	haveMet(one, alex)
	two := chat(t, room, []string{"Tim"})
	alex.seesCount(patience, 2, `\* `+at("Tim")+` joined$`)
	one.sees(patience, `\* `+at("Tim")+` joined$`)
	two.sees(patience, `\* `+at("Tim")+` joined$`)
	haveMet(two, alex)

	all := members(alex)
	if len(all) != 2 || all[0] == all[1] {
		t.Fatalf("members %q, want two of different address", all)
	}
	for _, line := range []string{"@Tim hello", "Tim/hello", "@Tim@127.0.0.1 hello", "@127.0.0.1 hello"} {
		before := len(alex.refusals())
		refuses(alex, line, `Tim@`+hostPat+`.*Tim@`+hostPat)
		said := alex.refusals()[before]
		for _, who := range all {
			// The port of the room may be left out, as everywhere.
			if short := strings.TrimSuffix(who, ":"+strconv.Itoa(room)); !strings.Contains(said, short) {
				t.Errorf("%q is refused with %q, which doesn't list %s", line, said, short)
			}
		}
	}
	for i, who := range all {
		alex.say(fmt.Sprintf("@%s only for %d", who, i))
	}
	var got []string
	for _, p := range []*proc{one, two} {
		p.sees(patience, ` -> me: `)
		for _, l := range p.out.lines() {
			if _, text, ok := strings.Cut(l, " -> me: "); ok {
				got = append(got, text)
			}
		}
	}
	slices.Sort(got)
	if want := []string{"only for 0", "only for 1"}; !slices.Equal(got, want) {
		t.Errorf("the two have %q, want %q", got, want)
	}
	one.say("from one")
	two.say("from two")
	first, second := alex.sees(patience, `: from one$`), alex.sees(patience, `: from two$`)
	if a, b := strings.TrimSuffix(first[20:], "from one"), strings.TrimSuffix(second[20:], "from two"); a == b {
		t.Errorf("both speak as %q", a)
	}
}

func TestDirectMessageComesAfterTheJoin(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	tim := chat(t, room, []string{"Tim"})
	for i := range 5 {
		ends(chat(t, room, []string{"-wait", "20s", fmt.Sprint("Bot", i)}, withInput(strings.NewReader("@Tim psst\n"))), patience, 0)
		who := at(fmt.Sprint("Bot", i))
		tim.sees(patience, who+` -> me: psst$`)
		joined, said := -1, -1
		for k, line := range tim.out.lines() {
			if regexp.MustCompile(who + ` joined$`).MatchString(line) {
				joined = k
			} else if regexp.MustCompile(who + ` -> me: psst$`).MatchString(line) {
				said = k
			}
		}
		if joined < 0 || said < joined {
			t.Errorf("the join of Bot%d is line %d, what it said line %d", i, joined, said)
		}
	}
}

// TestDirectMessagesKeepTheirOrder: each kind of message arrives in the order
// in which it was said; between the two a write may lie.
func TestDirectMessagesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	tim := company(t, room, "Tim", "Ann")[0] // he has met somebody, so all that comes is live
	var script strings.Builder
	want := map[string][]string{}
	for i := range 200 {
		fmt.Fprintf(&script, "to all %d\n@Tim to one %d\n", i, i)
		want["all"] = append(want["all"], strconv.Itoa(i))
		want["one"] = append(want["one"], strconv.Itoa(i))
	}
	ends(chat(t, room, []string{"-wait", "20s", "Bot"}, withInput(strings.NewReader(script.String()))), patience, 0)
	tim.sees(patience, at("Bot")+` left$`)
	got := map[string][]string{}
	for _, line := range tim.out.lines() {
		if _, text, ok := strings.Cut(line, ": to "); ok {
			whom, number, _ := strings.Cut(text, " ")
			got[whom] = append(got[whom], number)
		}
	}
	if !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("what was said arrived in another order: %q", got)
	}
}

func TestSenderIsToldThatReceiverIsGone(t *testing.T) {
	t.Parallel()
	ps := company(t, freePort(t), "Alex", "Stopped", "Killed")
	alex, stopped, killed := ps[0], ps[1], ps[2]
	freeze(stopped)
	freeze(killed)
	alex.say("@Stopped are you there?", "@Killed are you there?")
	alex.sees(patience, `\(me\): `+mark(alex)+`$`) // they are on their way
	must(t, killed.cmd.Process.Kill())
	said := time.Now()
	for _, name := range []string{"Killed", "Stopped"} {
		alex.complains(patience, `^p2pchat: .*`+name)
	}
	took := time.Since(said)
	t.Logf("told after %v", took)
	if took > slack(11*time.Second) {
		t.Errorf("told after %v, want 10s at most", took)
	}
	alex.closeInput()
	ends(alex, patience, 1)
}

func TestPipedDirectMessageWaitsForItsReceiver(t *testing.T) {
	t.Parallel()
	t.Run("who comes", func(t *testing.T) {
		t.Parallel()
		for i, form := range []string{"@Tim hello\n", "@Tim hello"} {
			port := freePort(t)
			alex := chat(t, port, []string{"-wait", "20s", "Alex"}, withInput(strings.NewReader(form)))
			alex.complains(patience, `Alex`) // is up
			if i == 1 {
				// It is Tim who is waited for, not just anybody.
				chat(t, port, []string{"Ann"}).sees(patience, at("Alex")+` joined$`)
			}
			tim := chat(t, port, []string{"Tim"})
			ends(alex, patience, 0)
			tim.sees(patience, at("Alex")+` -> me: hello$`)
		}
	})
	t.Run("who doesn't come", func(t *testing.T) {
		t.Parallel()
		port := freePort(t)
		tim := chat(t, port, []string{"Tim"})
		alex := chat(t, port, []string{"-wait", "300ms", "Alex"})
		haveMet(alex, tim)
		alex.say("@Nobody hello", "for all")
		alex.closeInput()
		ends(alex, patience, 1)
		alex.complains(patience, `^p2pchat: .*Nobody`)
		tim.sees(patience, at("Alex")+`: for all$`)
		if n := tim.count(`hello`); n != 0 {
			t.Error("the direct message is sent to everyone")
		}
	})
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	cases := map[string][]string{
		"no name":            {"-verbatim"},
		"two names":          {"Alex", "Tim"},
		"unknown flag":       {"-nope", "Alex"},
		"flag after name":    {"Alex", "-nope"},
		"value missing":      {"Alex", "-wait"},
		"-keep, no number":   {"-keep", "much", "Alex"},
		"-keep, bad unit":    {"-keep", "1parsec", "Alex"},
		"-keep, negative":    {"-keep", "-5", "Alex"},
		"-keep, empty":       {"-keep", "", "Alex"},
		"-keep, overflow":    {"-keep", "99999999999GiB", "Alex"},
		"-peer, host name":   {"-peer", "localhost:7700", "Alex"},
		"-peer, bad port":    {"-peer", "127.0.0.1:99999", "Alex"},
		"-peer, empty port":  {"-peer", "127.0.0.1:", "Alex"},
		"-peer, no address":  {"-peer", ":7700", "Alex"},
		"-bind, no address":  {"-bind", "nowhere", "Alex"},
		"-port, too large":   {"-port", "65536", "Alex"},
		"-port, negative":    {"-port", "-1", "Alex"},
		"-port, no number":   {"-port", "chat", "Alex"},
		"-wait, no unit":     {"-wait", "3", "Alex"},
		"-idle, no duration": {"-idle", "never", "Alex"},
	}
	for name, args := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startNode(t, freePort(t), args, withInput(strings.NewReader("")))
			ends(p, patience, 2)
			errs := p.err.lines()
			if len(errs) != 1 || !refusal.MatchString(errs[0]) || unclean(errs[0]) != "" || !strings.HasSuffix(p.err.String(), "\n") {
				t.Errorf("%q: standard error is %q, want one clean line `p2pchat: what is wrong; what to do`", args, p.err)
			}
			if out := p.out.String(); out != "" {
				t.Errorf("%q: standard output is %q, want none", args, out)
			}
		})
	}
}

func TestNameThatIsNoneIsWrongUsage(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]string{
		"at sign": "a@b", "colon": "a:b", "slash": "a/b", "star": "a*b", "open": "a(b", "close": "a)b", "greater": "a>b",
		"empty": "", "space": " ", "space before": " a", "space after": "a ", "two spaces": "a  b", "tab": "a\tb",
		"33 letters": strings.Repeat("x", 33), "33 wide": strings.Repeat("ż", 33), "line feed": "a\nb", "escape": "a\x1b[0m",
		"DEL": "a\x7f", "C1": "a\u009b", "zero-width space": "a\u200bb", "lone joiner": "a\u200db", "bidi": "a\u202eb",
		"BOM": "\ufeffa", "no-break space": "a\u00a0b", "ideographic space": "a\u3000b", "line separator": "a\u2028b",
		"soft hyphen": "a\u00adb", "bad byte": "a\xffb",
		"mark of direction": "דוד\u200f", "joiner before a word": "\u200cعلی", "two joiners": "علی\u200c\u200cرضا",
		"an accent of its own": "Jose\u0301", "the same in Greek": "\u0391\u0301", "in Cyrillic": "\u0438\u0306", "on an accent": "\u1ec7\u0301",
	} {
		_, err := parseArgs([]string{bad}, io.Discard)
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("a name with %s: %v, want a usage error", name, err)
			continue
		}
		said := newTranscript()
		v := newVoice(said)
		v.say("%v", err)
		v.close()
		if errs := said.lines(); len(errs) != 1 || !refusal.MatchString(errs[0]) || unclean(errs[0]) != "" {
			t.Errorf("a name with %s: standard error is %q, want one clean line `p2pchat: what is wrong; what to do`", name, said)
		}
	}
}

// TestEmptyValuesAreRefused: a variable that is not set must not open a private
// room, or a loopback one. Nothing is started here.
func TestEmptyValuesAreRefused(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"-bind", "-secret", "-peers", "-history", "-peer", "-keep"} {
		_, err := parseArgs([]string{flag, "", "Alex"}, io.Discard)
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf(`%s "": %v, want a usage error`, flag, err)
		}
	}
}

func TestRightUsage(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"name of one letter":   {"x"},
		"name of 32 letters":   {strings.Repeat("ż", 32)},
		"name with spaces":     {"Tim J. Cook-O'Neil, Jr"},
		"name with an emoji":   {"Zoë 👩🏽‍🚀"},
		"name in other script": {"日本語"},
		"name with a joiner":   {"علی\u200cرضا"},
		"name with an accent":  {"Jos\u00e9"},
		"name of many marks":   {"हिन्दी"},
		"-keep in KiB":         {"-keep", "64KiB", "Alex"},
		"-keep in GiB":         {"-keep", "1GiB", "Alex"},
		"-keep in bytes":       {"-keep", "1000000", "Alex"},
		"-peer":                {"-peer", "127.0.0.1", "-peer", "127.0.0.1:9", "Alex"},
		"-wait 0":              {"-wait", "0s", "Alex"},
		"--double":             {"--verbatim", "Alex"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := chat(t, freePort(t), args, withInput(strings.NewReader("\n")))
			ends(p, patience, 0)
			if got := p.refusals(); len(got) != 0 {
				t.Errorf("%q: refused: %q", args, got)
			}
		})
	}
}

func TestUsageTextFitsAScreen(t *testing.T) {
	t.Parallel()
	p := startNode(t, freePort(t), []string{"-h"})
	ends(p, patience, 0)
	text := p.out.String()
	lines := p.out.lines()
	if len(lines) == 0 || len(lines) > 50 {
		t.Errorf("-h prints %d lines, want 1 to 50", len(lines))
	}
	for _, l := range lines {
		if n := utf8.RuneCountInString(l); n > 80 || strings.ContainsRune(l, '\t') {
			t.Errorf("%d columns, want 80 at most and no TAB: %q", n, l)
		}
	}
	for _, flag := range []string{"-bind", "-port", "-peer", "-peers", "-idle", "-secret", "-history", "-keep", "-wait", "-verbatim", "-v", "-version", "-h"} {
		if !regexp.MustCompile(`(?m)(^|[\s,\[])` + flag + `($|[\s,\]])`).MatchString(text) {
			t.Errorf("-h doesn't tell of %s", flag)
		}
	}
	if !strings.Contains(text, "P2PCHAT_SECRET") || !strings.Contains(text, "p2pchat [flags] NAME") {
		t.Error("-h doesn't tell of P2PCHAT_SECRET or `p2pchat [flags] NAME`")
	}
	if e := p.err.String(); e != "" {
		t.Errorf("standard error is %q, want none", e)
	}
}

func TestVersionIsOneLine(t *testing.T) {
	t.Parallel()
	p := startNode(t, freePort(t), []string{"-version"})
	ends(p, patience, 0)
	if got := p.out.lines(); len(got) != 1 || !strings.Contains(got[0], "p2pchat") {
		t.Errorf("-version prints %q, want one line with p2pchat in it", got)
	}
}

func TestPeersTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, table string
		line        int
	}{
		{"no address", "# ours\n\nTim 127.0.0.1\nAnn\n", 4},
		{"address is none", "Tim nowhere\n", 1},
		{"bad port", "Tim 127.0.0.1:7700\nAnn 127.0.0.1:70000\n", 2},
		{"bad name", "Tim 127.0.0.1\n# comment\na@b 127.0.0.1", 3},
		{"nothing behind a comment", "Tim C# 127.0.0.1 # our office\nAnn # 127.0.0.1\n", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := startNode(t, freePort(t), []string{"-peers", file(t, "peers", c.table), "Alex"}, withInput(strings.NewReader("")))
			ends(p, patience, 2)
			if errs := p.err.lines(); len(errs) != 1 || !refusal.MatchString(errs[0]) || !regexp.MustCompile(fmt.Sprintf(`\b%d\b`, c.line)).MatchString(errs[0]) {
				t.Errorf("standard error is %q, want one line that names line %d", p.err, c.line)
			}
		})
	}
	t.Run("no such file", func(t *testing.T) {
		t.Parallel()
		p := startNode(t, freePort(t), []string{"-peers", filepath.Join(t.TempDir(), "none"), "Alex"}, withInput(strings.NewReader("")))
		ends(p, patience, 1)
		p.complains(patience, refusal.String())
	})
}

func TestNodesMeetByTheirAddresses(t *testing.T) {
	t.Parallel()
	// Different discovery ports: no beacon of one is heard by the other. The
	// TCP port is the same as the discovery port, both being free.
	for _, by := range []string{"-peer", "-peers"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			here, there := freePort(t), freePort(t)
			tim := chat(t, there, []string{"Tim Cook"})
			tim.complains(patience, `Tim Cook`) // is up
			value := fmt.Sprintf("127.0.0.1:%d", there)
			if by == "-peers" {
				value = file(t, "peers", "# office\n\nTim Cook "+value+"\n")
			}
			alex := chat(t, here, []string{"-v", by, value, "Alex"})
			haveMet(alex, tim)
			mark(alex, tim)
			mark(tim, alex)
			alex.say("Tim Cook/hello")
			tim.sees(patience, at("Alex")+` -> me: hello$`)
		})
	}
}

// TestNodeCallsFromItsOwnAddress, of which the others are told, and logs that if it is to.
func TestNodeCallsFromItsOwnAddress(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("has one address on loopback")
	}
	there := freePort(t)
	tim := chat(t, there, []string{"Tim"})
	alex := chat(t, freePort(t), []string{"-bind", "127.0.0.2", "-peer", fmt.Sprint("127.0.0.1:", there), "-v", "Alex"})
	tim.sees(patience, `\* Alex@127\.0\.0\.2:\d+ joined$`)
	alex.complains(patience, `^p2pchat: connected with .*127\.0\.0\.1`)
}

func TestSecretMakesARoomOfItsOwn(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	rooms := [][]*proc{ // few: under the race detector a key takes a second of a core
		{ // one passphrase, said in both ways
			chat(t, port, []string{"Env"}, withEnv("P2PCHAT_SECRET=correct horse")),
			chat(t, port, []string{"-secret", file(t, "secret", "correct horse\r\n"), "File"}),
		},
		{chat(t, port, []string{"Olga"}), chat(t, port, []string{"Otto"})}, // the open room
	}
	// All beacons go the same way. Once each has met its own, it has had the
	// occasion to meet the others.
	for _, room := range rooms {
		haveMet(room...)
		mark(room[0], room[1:]...)
		mark(room[1], room[0])
	}
	for i, room := range rooms {
		for _, p := range room {
			if got := p.count(` joined$`); got != len(room)-1 {
				t.Errorf("%s sees %d nodes join, want %d", p.name, got, len(room)-1)
			}
			for j, other := range rooms {
				for _, q := range other {
					if i != j && strings.Contains(p.out.String(), q.name) {
						t.Errorf("%s sees %s of another room", p.name, q.name)
					}
				}
			}
			if text := p.out.String() + p.err.String(); strings.Contains(text, "horse") {
				t.Errorf("%s shows the secret", p.name)
			}
		}
	}
}

func TestEmptySecretIsRefused(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "\n", "\r\n"} {
		p := startNode(t, freePort(t), []string{"-secret", file(t, "secret", content), "Alex"}, withInput(strings.NewReader("")))
		ends(p, patience, 2)
		p.complains(patience, refusal.String())
	}
	for _, utf16 := range []string{"\xff\xfep\x00w\x00", "\xfe\xff\x00p\x00w"} { // as some editors and shells of Windows write
		if err := new(config).readSecret(file(t, "secret", utf16)); err == nil || !strings.Contains(err.Error(), "; save it as UTF-8") {
			t.Errorf("a secret in UTF-16: %v", err)
		}
	}
	p := startNode(t, freePort(t), []string{"-secret", filepath.Join(t.TempDir(), "none"), "Alex"}, withInput(strings.NewReader("")))
	ends(p, patience, 1)
	p.complains(patience, refusal.String())
}

func TestSecretIsTheFileButForItsLineEnd(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"correct horse": "correct horse", "correct horse\n": "correct horse", "correct horse\r\n": "correct horse",
		"correct horse\r": "correct horse\r", "correct horse\n\n": "correct horse\n", " \n": " ",
		"\ufeffcorrect horse\r\n": "correct horse", "correct\ufeff horse": "correct\ufeff horse",
	} {
		cfg := new(config)
		if err := cfg.readSecret(file(t, "secret", content)); err != nil || cfg.secret != want {
			t.Errorf("%q is the secret %q, %v; want %q", content, cfg.secret, err, want)
		}
	}
	if _, err := os.Stat("/dev/zero"); err == nil && new(config).readSecret("/dev/zero") == nil {
		t.Error("a file without end is a secret")
	}
}

func TestSecretOfTheEnvironmentIsThatOfTheFile(t *testing.T) {
	for content, want := range map[string]string{
		"correct horse": "correct horse", "correct horse\n": "correct horse", "correct horse\r\n": "correct horse",
		"correct horse\r":   "correct horse", // what $(cat FILE) leaves of a file with CRLF
		"correct horse\n\n": "correct horse\n", "\ufeffcorrect horse": "correct horse", " ": " ",
	} {
		t.Setenv("P2PCHAT_SECRET", content)
		cfg := new(config)
		if err := cfg.readSecret(""); err != nil || cfg.secret != want {
			t.Errorf("%q is the secret %q, %v; want %q", content, cfg.secret, err, want)
		}
	}
	for _, content := range []string{"", "\n", "\r\n", "\r", "\ufeff", "\ufeff\r\n"} {
		t.Setenv("P2PCHAT_SECRET", content)
		if new(config).readSecret("") == nil {
			t.Errorf("%q is a secret", content)
		}
	}
}

func TestHistoryFileOutlivesTheProgram(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "chat.history")
	var said []string
	for launch := range 3 {
		port := freePort(t)
		alex := chat(t, port, []string{"-history", path, "Alex"})
		tim := chat(t, port, []string{"Tim"})
		haveMet(alex, tim)
		said = append(said, mark(alex, tim), mark(tim, alex))
		for _, p := range []*proc{alex, tim} {
			var got []string
			for _, l := range p.history(patience) {
				if _, text, ok := strings.Cut(l, ": mark "); ok {
					got = append(got, "mark "+text)
				}
			}
			if !slices.Equal(got, said) {
				t.Errorf("launch %d: %s has %q, want %q", launch, p.name, got, said)
			}
		}
		alex.say("/exit")
		ends(alex, patience, 0)
	}
}

func TestHistoryFileStaysInItsRoom(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "chat.history")
	secret := file(t, "secret", "open sesame\n")
	enter := func(args ...string) *proc {
		return startNode(t, freePort(t), append(args, "-history", path, "-wait", "0s", "Alex"), withInput(strings.NewReader("to myself\n")))
	}
	ends(enter("-secret", secret), patience, 1) // nobody hears it
	before, err := os.ReadFile(path)
	must(t, err)
	for _, args := range [][]string{nil, {"-secret", file(t, "other", "open barley\n")}} {
		p := enter(args...)
		ends(p, patience, 1)
		p.complains(patience, `secret`)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, before) {
		t.Errorf("the file was changed by those who were refused, %v", err)
	}
}

func TestHistoryFileOfSomebodyElseIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"letter": "Dear diary,\n",
		"byte":   "x",
		"binary": "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 4096),
		"large":  strings.Repeat("all work and no play makes jack a dull boy\n", 50_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := file(t, name, content)
			p := startNode(t, freePort(t), []string{"-history", path, "Alex"}, withInput(strings.NewReader("hi")))
			ends(p, patience, 1)
			if errs := p.err.lines(); len(errs) != 1 || !refusal.MatchString(errs[0]) {
				t.Errorf("standard error is %q, want one refusal", p.err)
			}
			got, err := os.ReadFile(path)
			must(t, err)
			if string(got) != content {
				t.Errorf("the file has changed to %d bytes %q…", len(got), clip(string(got)))
			}
		})
	}
}

func TestChatGoesOnWhenHistoryFileIsFull(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "chat.history")
	room := freePort(t)
	// A limit of 512 blocks on the size of files stands for a full disk.
	alex := start(t, "Alex", []string{"sh", "-c", `ulimit -f 512; exec "$0" "$@"`,
		self(t), "-bind", "127.0.0.1", "-port", strconv.Itoa(room), "-history", path, "Alex"})
	tim := chat(t, room, []string{"Tim"})
	haveMet(alex, tim)
	first := mark(alex, tim)
	for range 12 {
		alex.say(strings.Repeat("x", 60_000))
	}
	alex.complains(patience, `^p2pchat: .*history.*; .+`)
	for range 12 {
		alex.say(strings.Repeat("y", 60_000))
	}
	mark(alex, tim)
	mark(tim, alex)
	alex.say("/exit")
	if alex.exits(patience); len(alex.refusals()) != 1 {
		t.Errorf("complaints: %q, want one", alex.refusals())
	}

	// What did fit is there the next time.
	again := chat(t, freePort(t), []string{"-history", path, "Alex"})
	if got := again.history(patience); !slices.ContainsFunc(got, func(l string) bool { return strings.HasSuffix(l, ": "+first) }) {
		t.Errorf("the next launch's history has %d lines, without the first message", len(got))
	}
}

func TestListenerWithClosedOutputLeavesInOrder(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	room := freePort(t)
	log := startNode(t, room, []string{"Log"}, withOutput(w), withNullInput())
	w.Close()
	tim := chat(t, room, []string{"Tim"})
	// As head -1 does: read something, and go.
	_, err = r.Read(make([]byte, 4096))
	must(t, err)
	r.Close()
	tim.sees(patience, at("Log")+` joined$`)
	tim.say("anybody listening?")
	ends(log, patience, 0)
	tim.sees(patience, `\* `+at("Log")+` left$`)
}

// closedPipe returns the writing end of a pipe that nobody reads any more.
func closedPipe(t testing.TB) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { w.Close() })
	r.Close()
	return w
}

func TestClosedOutputKeepsNoInputFromBeingHeard(t *testing.T) {
	t.Parallel()
	t.Run("somebody there", func(t *testing.T) {
		t.Parallel()
		room := freePort(t)
		tim := chat(t, room, []string{"Tim"})
		bot := startNode(t, room, []string{"-wait", "20s", "Bot"}, withOutput(closedPipe(t)), withInput(strings.NewReader("alarm\n")))
		ends(bot, patience, 0)
		tim.sees(patience, at("Bot")+`: alarm$`)
		tim.sees(patience, `\* `+at("Bot")+` left$`)
	})
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		bot := startNode(t, freePort(t), []string{"-wait", "300ms", "Bot"}, withOutput(closedPipe(t)), withInput(strings.NewReader("alarm\n")))
		ends(bot, patience, 1)
		bot.complains(patience, `^p2pchat: nobody heard 1 of 1 messages; `)
	})
	t.Run("input that goes on", func(t *testing.T) {
		t.Parallel()
		room := freePort(t)
		tim := chat(t, room, []string{"Tim"})
		bot := startNode(t, room, []string{"-wait", "20s", "Bot"}, withOutput(closedPipe(t)))
		bot.say("one")
		tim.sees(patience, at("Bot")+`: one$`)
		for range 2 * maxQueue { // answers that nobody reads fill no queue
			bot.say("/history")
			mark(bot, tim)
		}
		bot.say("two")
		tim.sees(patience, at("Bot")+`: two$`)
		bot.closeInput()
		ends(bot, patience, 0)
	})
	t.Run("a flood", func(t *testing.T) {
		t.Parallel()
		const lines = 20_000
		var input bytes.Buffer
		for i := range lines {
			fmt.Fprintf(&input, "x: this is line number %d\n", i+1)
		}
		room := freePort(t)
		var got numberedLines
		tim := startNode(t, room, []string{"Tim"}, func(c *exec.Cmd) { c.Stdout = &got })
		tim.complains(patience, `Tim`) // is up
		r, w, err := os.Pipe()
		must(t, err)
		bot := startNode(t, room, []string{"-wait", "20s", "Bot"}, withInput(&input), withOutput(w))
		w.Close()
		_, err = r.Read(make([]byte, 100)) // as head -1 does
		must(t, err)
		r.Close()
		ends(bot, patience, 0)
		tim.say("/exit")
		ends(tim, patience, 0)
		if got.err != nil || got.last != lines {
			t.Errorf("%d of %d lines arrived: %v", got.last, lines, got.err)
		}
	})
}

func TestFullDiskIsReported(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	room := freePort(t)
	tim := chat(t, room, []string{"Tim"})
	alex := startNode(t, room, []string{"Alex"}, withOutput(open(t, "/dev/full", os.O_WRONLY)))
	ends(alex, patience, 1)
	alex.complains(patience, `^p2pchat: .*(output|no space)`)
	tim.sees(patience, `\* `+at("Alex")+` left$`)
	// That the input was heard meanwhile makes no difference.
	bot := startNode(t, room, []string{"-wait", "20s", "Bot"}, withOutput(open(t, "/dev/full", os.O_WRONLY)), withInput(strings.NewReader("hi")))
	ends(bot, patience, 1)
	bot.complains(patience, `^p2pchat: .*(output|no space)`)
}

func TestSignalsLeaveInOrderWhateverBlocks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		sig      syscall.Signal
		out, err bool // blocked
		peer     bool // another node is stopped
	}{
		{"interrupt, nothing blocked", syscall.SIGINT, false, false, false},
		{"terminate, nothing blocked", syscall.SIGTERM, false, false, false},
		{"hangup, nothing blocked", syscall.SIGHUP, false, false, false},
		{"quit, nothing blocked", syscall.SIGQUIT, false, false, false},
		{"terminate, stderr blocked", syscall.SIGTERM, false, true, false},
		{"interrupt, stdout blocked", syscall.SIGINT, true, false, false},
		{"hangup, stdout blocked", syscall.SIGHUP, true, false, false},
		{"terminate, everything blocked", syscall.SIGTERM, true, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			room := freePort(t)
			tim, ann := chat(t, room, []string{"Tim"}), chat(t, room, []string{"Ann"})
			var blocks []setup
			if c.out {
				blocks = append(blocks, withOutput(fullPipe(t)))
			}
			if c.err {
				blocks = append(blocks, withError(fullPipe(t)))
			}
			alex := chat(t, room, []string{"Alex"}, blocks...)
			tim.sees(patience, at("Alex")+` joined$`)
			ann.sees(patience, at("Alex")+` joined$`)
			if c.peer {
				freeze(ann)
			}
			// The chat goes on, whatever blocks.
			if c.err {
				alex.say("/members x", "/nonsense") // complaints that nobody will read
			}
			mark(alex, tim)
			if !c.out {
				mark(tim, alex)
			}
			alex.signal(c.sig)
			status := 0
			if c.err {
				status = 1 // two lines were refused
			}
			ends(alex, leaving, status)
			tim.sees(patience, `\* `+at("Alex")+` left$`)
		})
	}
}

// TestInterruptedPipeTellsWhatNobodyHeard: the exit status says whether what came from
// a pipe was heard, whatever ends the program.
func TestInterruptedPipeTellsWhatNobodyHeard(t *testing.T) {
	t.Parallel()
	bot := chat(t, freePort(t), []string{"Bot"})
	mark(bot, bot)
	bot.signal(syscall.SIGTERM)
	ends(bot, leaving, 1)
	bot.complains(patience, `^p2pchat: nobody heard 1 of 1 messages; `)
}

// TestSignalEndsWhatIsSlowToBegin: a history file that takes minutes to read.
func TestSignalEndsWhatIsSlowToBegin(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	name := file(t, "history", fileHeader)
	must(t, os.Truncate(name, 1<<36)) // of zeros, which take no room
	bot := startNode(t, freePort(t), []string{"-history", name, "Bot"})
	isOpen := func() bool {
		fds := fmt.Sprintf("/proc/%d/fd/", bot.cmd.Process.Pid)
		all, err := os.ReadDir(fds)
		must(t, err)
		return slices.ContainsFunc(all, func(e os.DirEntry) bool {
			to, _ := os.Readlink(fds + e.Name())
			return to == name
		})
	}
	for began := time.Now(); !isOpen(); time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("the history is not opened")
		}
	}
	bot.signal(syscall.SIGTERM)
	ends(bot, leaving, 0)
}

// TestWhatIsPrintedLateIsWaitedForAMoment: a busy machine may keep the reader from
// coming within the moment, but not each time.
func TestWhatIsPrintedLateIsWaitedForAMoment(t *testing.T) {
	t.Parallel()
	for range 5 {
		if printsWhatIsReadLate(t) {
			return
		}
	}
	t.Error("what was to be printed is gone")
}

// printsWhatIsReadLate says whether a node whose output is read only after the signal
// that ends it has printed what stood before that.
func printsWhatIsReadLate(t *testing.T) bool {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	w.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	for err == nil {
		_, err = w.Write(make([]byte, 1<<12)) // until it is full
	}
	defer r.Close()
	alex := startNode(t, freePort(t), []string{"Alex"}, withOutput(w))
	alex.say("/help", "/nonsense")
	alex.complains(patience, `nonsense`) // and what stands before it is being printed
	alex.signal(syscall.SIGTERM)
	time.Sleep(50 * time.Millisecond)
	w.Close()
	all, err := io.ReadAll(r)
	must(t, err)
	ends(alex, leaving, 1) // for the refused line
	return bytes.Contains(all, []byte("/members"))
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	tim := chat(t, room, []string{"Tim"})
	alex := startNode(t, room, []string{"Alex"}, withOutput(fullPipe(t)), withError(fullPipe(t)))
	tim.sees(patience, at("Alex")+` joined$`)
	freeze(tim) // so that leaving in order takes its second
	alex.signal(syscall.SIGTERM)
	for range 10_000 {
		select {
		case <-alex.exited:
			if alex.code == 0 {
				t.Error("left in order, want an end at once")
			}
			return
		case <-time.After(time.Millisecond): // signals that wait together count as one
			alex.cmd.Process.Signal(syscall.SIGTERM) // fails once it is gone
		}
	}
	t.Error("a second signal doesn't end it")
}

func TestStartIsSaidOnStandardError(t *testing.T) {
	t.Parallel()
	room := freePort(t)
	p := chat(t, room, []string{"Alex"})
	p.complains(patience, `Alex.*\b`+strconv.Itoa(room)+`\b`)
	p.say("/exit")
	ends(p, patience, 0)
	if got := p.err.lines(); len(got) != 1 {
		t.Errorf("standard error is %q, want one line", got)
	}
}

func TestTimeZone(t *testing.T) {
	t.Parallel()
	zones := []string{"/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/usr/lib/locale/TZ", "/etc/zoneinfo", filepath.Join(runtime.GOROOT(), "lib", "time")}
	berlin, err := time.LoadLocation("Europe/Berlin")
	must(t, err)
	for _, c := range []struct {
		name, tz string
		known    bool
		want     *time.Location
		without  bool // zone files
	}{
		{"a name", "Europe/Berlin", true, berlin, false},
		{"a name behind a colon", ":Europe/Berlin", true, berlin, false},
		{"no zone files", "Europe/Berlin", true, berlin, true},
		{"empty", "", true, time.UTC, false},
		{"UTC", "UTC", true, time.UTC, false},
		{"UTC behind a colon", ":UTC", true, time.UTC, false},
		{"UTC by another name", "Etc/UTC", true, time.UTC, false},
		{"a misspelt name", "Europe/Berln", false, time.UTC, false},
		{"a rule", "CET-1CEST,M3.5.0,M10.5.0/3", false, time.UTC, false},
		{"a path to nothing", "/nowhere", false, time.UTC, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			argv := []string{self(t), "-bind", "127.0.0.1", "-port", strconv.Itoa(freePort(t)), "Alex"}
			if c.without {
				if os.Geteuid() != 0 {
					t.Skip("it takes root to hide zone files from a program")
				}
				var hide strings.Builder
				for _, dir := range zones {
					hide.WriteString(`if [ -d "` + dir + `" ]; then mount -t tmpfs none "` + dir + `" || exit 3; fi; `)
				}
				argv = append([]string{"unshare", "-m", "sh", "-c", hide.String() + `exec "$0" "$@"`}, argv...)
			}
			alex := start(t, "Alex", argv, withEnv("TZ="+c.tz))
			alex.say("/members", "/exit")
			ends(alex, patience, 0)
			line := alex.sees(patience, `member Alex`)
			at, err := time.ParseInLocation(stampLayout, line[:len(stampLayout)], c.want)
			if err != nil || time.Since(at).Abs() > time.Minute {
				t.Errorf("%q does not begin with the time in %v: %v", line, c.want, err)
			}
			got := alex.refusals()
			if c.known && len(got) != 0 || !c.known && (len(got) != 1 || !refusal.MatchString(got[0]) || !strings.Contains(got[0], c.tz)) {
				t.Errorf("standard error says %q", got)
			}
		})
	}
}

// ---- idle

// table writes a table of nodes that has one.
func table(t testing.TB, name string, port int) string {
	t.Helper()
	return file(t, "peers", fmt.Sprintf("%s 127.0.0.1:%d\n", name, port))
}

// idlers starts Alex and Tim in rooms of different ports, so that they hear
// no beacon of each other, and waits until they have closed their connection.
func idlers(t testing.TB) (alex, tim *proc) {
	t.Helper()
	here, there := freePort(t), freePort(t)
	tim = chat(t, there, []string{"-peers", table(t, "Alex", here), "-idle", "1s", "Tim"})
	alex = chat(t, here, []string{"-peers", table(t, "Tim", there), "-idle", "1s", "Alex"})
	haveMet(alex, tim)
	mark(alex, tim)
	mark(tim, alex)
	getIdle(alex, "Tim")
	return alex, tim
}

// getIdle waits until p lists that node as idle.
func getIdle(p *proc, name string) {
	p.t.Helper()
	rx := regexp.MustCompile(`^` + stampPat + ` \* member ` + at(name) + ` .*\bidle\b`)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if slices.ContainsFunc(memberLines(p), rx.MatchString) {
			return
		}
	}
	p.t.Fatalf("%s: the connection with %s doesn't get idle", p.name, name)
}

func TestIdleConnectionOpensForAMessage(t *testing.T) {
	t.Parallel()
	alex, tim := idlers(t)
	mark(alex, tim)
	getIdle(alex, "Tim")
	mark(tim, alex)
	getIdle(tim, "Alex")
	tim.say("@Alex only for you")
	alex.sees(patience, at("Tim")+` -> me: only for you$`)
	getIdle(alex, "Tim")
	// At the end of input, who is idle is told as well.
	m := "mark at the end"
	alex.say(m)
	alex.closeInput()
	ends(alex, patience, 0)
	tim.sees(patience, at("Alex")+`: `+m+`$`)
	tim.sees(patience, `\* `+at("Alex")+` left$`)
	for _, p := range []*proc{alex, tim} {
		wrong := func(l string) bool { return strings.HasSuffix(l, " lost") || strings.HasSuffix(l, " is back") }
		if lines := p.out.lines(); slices.ContainsFunc(lines, wrong) {
			t.Errorf("%s takes an idle node for a lost one: %q", p.name, lines[slices.IndexFunc(lines, wrong)])
		}
	}
}

func TestIdleNodeThatFreezesIsLost(t *testing.T) {
	t.Parallel()
	alex, tim := idlers(t)
	freeze(tim)
	alex.sees(slack(10*time.Second), `\* `+at("Tim")+` lost$`) // 8 s are promised
}

func TestIdleNodeThatIsKilledIsLost(t *testing.T) {
	t.Parallel()
	alex, tim := idlers(t)
	must(t, tim.cmd.Process.Kill())
	alex.sees(slack(10*time.Second), `\* `+at("Tim")+` lost$`) // 8 s are promised
}

// TestHistoryIsWrittenAgainWhenTheDiskHasRoom uses a file system of 64 KiB.
func TestHistoryIsWrittenAgainWhenTheDiskHasRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "p2pchat", dir).CombinedOutput(); err != nil {
		t.Skipf("it needs a small file system: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	filler := filepath.Join(dir, "filler")
	must(t, os.WriteFile(filler, make([]byte, 48<<10), 0o600))
	args := []string{"-history", filepath.Join(dir, "history"), "Ann"}
	ann := startNode(t, freePort(t), args)
	line := strings.Repeat("x", 1000)
	for range 30 {
		ann.say(line)
	}
	ann.complains(patience, `^p2pchat: cannot write the history: .*; `)
	ann.say("while there is no room")
	ann.seesCount(patience, 1, `: while there is no room$`)
	must(t, os.Remove(filler))
	ann.complains(patience, `^p2pchat: the history is written again; `)
	ann.say("there is again")
	ann.seesCount(patience, 1, `: there is again$`)
	ann.signal(syscall.SIGTERM)
	ends(ann, patience, 1) // nobody heard it

	again := startNode(t, freePort(t), args)
	lines := again.history(patience)
	for re, n := range map[string]int{`: x+$`: 30, `: while there is no room$`: 1, `: there is again$`: 1} {
		if count(lines, re) != n {
			t.Errorf("of the history %d lines match %q, want %d", count(lines, re), re, n)
		}
	}
	if n := count(again.err.lines(), `damaged`); n > 0 {
		t.Errorf("the file is damaged:\n%s", again.err.String())
	}
}

// TestHistoryThatIsNoFileIsRefused at once, also where opening it or reading it
// would take for ever.
func TestHistoryThatIsNoFileIsRefused(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := exec.Command("mkfifo", fifo).Run(); err != nil {
		t.Skip("there is no mkfifo")
	}
	for _, path := range []string{fifo, "/dev/tty", "/dev/zero", t.TempDir()} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		p := startNode(t, freePort(t), []string{"-history", path, "Ann"})
		ends(p, patience, 1)
		p.complains(patience, `^p2pchat: cannot use the history .*; choose another file with -history$`)
	}
}
