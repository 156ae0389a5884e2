package main

// README is part of the program: what it says of names, flags, commands and
// output is compared here, and its recipes are run as they stand.

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func readme(t testing.TB) string {
	b, err := os.ReadFile("README.md")
	must(t, err)
	return string(b)
}

// section returns what stands under a heading of README.
func section(t testing.TB, heading string) string {
	t.Helper()
	_, s, ok := strings.Cut(readme(t), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("README has no section %q", heading)
	}
	s, _, _ = strings.Cut(s, "\n## ")
	return s
}

func TestReadmeNamesOnlyWhatExists(t *testing.T) {
	t.Parallel()
	exists := map[string]bool{}
	function := regexp.MustCompile(`^func (?:\([a-z]+ \*?[a-zA-Z]+\) )?([a-zA-Z]+)\(`)
	files, err := filepath.Glob("*.go")
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		for line := range strings.Lines(string(b)) {
			if m := function.FindStringSubmatch(line); m != nil {
				exists[m[1]] = true
			}
		}
	}
	named := regexp.MustCompile("`([a-z]+[A-Z]?[A-Za-z]*|Test[A-Za-z]+)`").FindAllStringSubmatch(
		section(t, "Promises and limits")+section(t, "Working on it"), -1)
	functions := 0
	for _, m := range named {
		if !strings.HasPrefix(m[1], "Test") && !strings.Contains(section(t, "Working on it"), "`"+m[1]+"`") {
			continue // a word of a line, not of the code
		}
		if slices.Contains([]string{"ip", "nft", "joined", "lost", "left"}, m[1]) {
			continue
		}
		functions++
		if !exists[m[1]] {
			t.Errorf("README names %s, and there is no such function", m[1])
		}
	}
	if functions < 25 {
		t.Errorf("README names %d functions; has the pattern rotted?", functions)
	}
}

func TestReadmeAndUsageListTheSame(t *testing.T) {
	flagRE := regexp.MustCompile("(?m)^(?:\\| `|  )(-[a-z]+)")
	versionToo := regexp.MustCompile("-version`?, `?-h")
	list := func(text string) (flags []string) {
		for _, m := range flagRE.FindAllStringSubmatch(text, -1) {
			flags = append(flags, m[1])
		}
		if !versionToo.MatchString(text) {
			t.Errorf("-version and -h are missing in %q", clip(text))
		}
		slices.Sort(flags)
		return flags
	}
	usage, doc := list(usageText), list(section(t, "Usage"))
	if !slices.Equal(usage, doc) {
		t.Errorf("usage lists %q, README %q", usage, doc)
	}
	for _, line := range helpText {
		for _, command := range regexp.MustCompile(`^/[a-z]+|, /[a-z]+`).FindAllString(line, -1) {
			if command = strings.TrimPrefix(command, ", "); !strings.Contains(section(t, "Usage"), "`"+command) {
				t.Errorf("README does not list %s", command)
			}
		}
	}
}

func TestReadmeShowsTheGrammar(t *testing.T) {
	n := 0
	for l := range strings.SplitSeq(section(t, "Output"), "\n") {
		if l, ok := strings.CutPrefix(l, "    "); ok {
			n++
			l = regexp.MustCompile(`192\.168\.0\.\d+`).ReplaceAllString(l, "127.0.0.1") // where the grammar of the tests lives
			if !grammar.MatchString(l) {
				t.Errorf("README shows %q, which is not of the grammar", l)
			}
		}
	}
	if n < 12 {
		t.Errorf("README shows %d lines of output", n)
	}
}

// recipe returns the commands of README that stand under a comment.
func recipe(t testing.TB, comment string) string {
	t.Helper()
	_, s, ok := strings.Cut(section(t, "Recipes"), "    # "+comment)
	if !ok {
		t.Fatalf("README has no recipe %q", comment)
	}
	_, s, _ = strings.Cut(s, "\n")
	s, _, _ = strings.Cut(s, "\n\n")
	return s
}

// earlierLog is what chat.log holds before a recipe is run.
const earlierLog = "2026-11-22 15:04:09 Tim@192.168.0.7: one\n2026-11-22 15:04:10 * Ann B@192.168.0.9 joined\n2026-11-22 15:04:11 Tim@192.168.0.7: two: 2\n" +
	"2026-11-22 15:04:12 Ann B@[fe80::9%eth0]:7701 -> me: psst\n2026-11-22 15:04:13 Ann B@192.168.0.9: he wrote -> me: psst\n"

// follow runs a recipe in a directory of its own, where p2pchat is the
// program, bound to loopback, in the room of the given port, with that -wait.
func follow(t testing.TB, port int, wait, recipe string) (p *proc, dir string) {
	t.Helper()
	dir = t.TempDir()
	bin := t.TempDir()
	pids := filepath.Join(bin, "pids")
	script := "#!/bin/sh\necho $$ >> '" + pids + "'\nexec '" + self(t) + "' -bind 127.0.0.1 -port " + strconv.Itoa(port) + " -wait " + wait + " \"$@\"\n"
	must(t, os.WriteFile(filepath.Join(bin, "p2pchat"), []byte(script), 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "backup"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "chat.log"), []byte(earlierLog), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "app.log"), []byte("/dev/sda1 is full\n@all hands\n"), 0o644))
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh here")
	}
	p = start(t, "recipe", []string{sh, "-c", recipe},
		withEnv("PATH="+bin+":"+os.Getenv("PATH")), func(c *exec.Cmd) { c.Dir, c.WaitDelay = dir, 5*time.Second })
	t.Cleanup(func() { // a recipe may listen for ever
		b, _ := os.ReadFile(pids)
		for pid := range strings.FieldsSeq(string(b)) {
			n, err := strconv.Atoi(pid)
			must(t, err)
			if node, err := os.FindProcess(n); err == nil {
				node.Kill()
			}
		}
	})
	return p, dir
}

func TestRecipesDoWhatTheySay(t *testing.T) {
	const within = patience
	meet := func(t *testing.T, comment string) (tim, p *proc, dir string) {
		t.Parallel()
		port := freePort(t)
		tim = startNode(t, port, []string{"Tim"})
		tim.complains(within, `Tim at`)
		p, dir = follow(t, port, "20s", strings.TrimPrefix(strings.TrimSpace(recipe(t, comment)), "@reboot "))
		t.Cleanup(func() { tim.say("/exit") })
		return tim, p, dir
	}
	t.Run("alert", func(t *testing.T) {
		tim, p, _ := meet(t, "an alert from cron")
		tim.sees(within, ` Cron@127.0.0.1(:\d+)?: backup FAILED$`)
		if code := p.exits(within); code != 0 || p.out.String() != "" {
			t.Errorf("exit status %d, prints %q", code, p.out)
		}
	})
	t.Run("alert that nobody hears", func(t *testing.T) {
		t.Parallel()
		p, _ := follow(t, freePort(t), "300ms", recipe(t, "an alert from cron"))
		p.sees(within, `^and nobody heard of it$`)
	})
	t.Run("follow", func(t *testing.T) {
		tim, p, _ := meet(t, "follow a log file")
		tim.sees(within, ` App@\S+: /dev/sda1 is full$`)
		tim.sees(within, ` App@\S+: @all hands$`)
		_ = p
	})
	for name, comment := range map[string]string{
		"log": "a log of the room", "log from the crontab": "the same from the crontab", "log in the background": "the same in the background",
	} {
		t.Run(name, func(t *testing.T) {
			tim, _, dir := meet(t, comment)
			tim.sees(within, ` Log@\S+ joined$`)
			tim.say("for the record")
			waitForFile(t, filepath.Join(dir, "chat.log"), within, "Tim@127.0.0.1: for the record\n", "Tim@127.0.0.1:")
			if b, err := os.ReadFile(filepath.Join(dir, "chat.log")); err != nil || !strings.HasPrefix(string(b), earlierLog) {
				t.Errorf("the log of before is gone: %q, %v", b, err)
			}
		})
	}
	t.Run("say now and then", func(t *testing.T) {
		tim, _, dir := meet(t, "say a line now and then")
		tim.sees(within, ` F@\S+: two$`)
		must(t, os.WriteFile(filepath.Join(dir, "fifo"), []byte("three\n/exit\n"), 0))
		tim.sees(within, ` F@\S+ left$`)
		if got := tim.count(` F@\S+(: (one|two|three)| joined)$`); got != 4 {
			t.Errorf("three lines of one who joined are %d", got)
		}
	})
	t.Run("stat", func(t *testing.T) {
		_, p, _ := meet(t, "who said how much")
		p.sees(within, `^2 Tim@192.168.0.7:$`)
		p.sees(within, `^1 Ann B@192.168.0.9:$`)
	})
	t.Run("direct messages", func(t *testing.T) {
		_, p, _ := meet(t, "direct messages to me")
		p.sees(within, ` Ann B@\S+ -> me: psst$`)
		if code := p.exits(within); code != 0 || p.count(`.`) != 1 {
			t.Errorf("exit status %d, prints %q, want the one direct message", code, p.out)
		}
	})
	t.Run("only what people say", func(t *testing.T) {
		tim, p, _ := meet(t, "only what people say")
		tim.sees(within, ` Log@\S+ joined$`)
		tim.say("words")
		p.sees(within, ` Tim@\S+: words$`)
		if n := p.count(`joined`); n != 0 {
			t.Errorf("%d joined lines pass", n)
		}
	})
	t.Run("bot", func(t *testing.T) {
		tim, _, _ := meet(t, "a bot that answers")
		tim.sees(within, ` Bot@\S+ joined$`)
		tim.say("hello, who is there?")
		tim.sees(within, ` Bot@\S+: I am$`)
	})
	t.Run("utc", func(t *testing.T) {
		tim, p, _ := meet(t, "all times in UTC")
		tim.sees(within, ` Alex@\S+ joined$`)
		tim.say("what time is it?")
		line := p.sees(within, `what time is it\?$`)
		at, err := time.Parse(stampLayout, line[:len(stampLayout)])
		if err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("%q does not begin with the time in UTC: %v", line, err)
		}
	})
}

// waitForFile waits until the file holds a line that ends with one of the
// given texts.
func waitForFile(t testing.TB, path string, within time.Duration, text, also string) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) { // a file can't wake us
		b, _ := os.ReadFile(path)
		if strings.Contains(string(b), text) || strings.Contains(string(b), also) && strings.Contains(string(b), "for the record") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s holds %q", path, b)
		}
	}
}
