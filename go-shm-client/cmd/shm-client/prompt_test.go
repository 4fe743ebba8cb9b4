//go:build linux

package main

import (
	"path/filepath"
	"strings"
	"testing"

	shm "go-shm-client"
	"go-shm-client/internal/fakeserver"
	"go-shm-client/internal/layout"
)

// poet is a model that answers prompts with its name, how many steps it was given, and the prompt.
func poet(name string) *fakeserver.Model {
	model := fakeserver.Scribe
	model.Name = name
	model.Answer = func(s *fakeserver.Server, got layout.Submission) {
		s.Append(got, name+" of ")
		s.Append(got, s.Text(got))
		s.Finish(got, layout.StatusOK, "")
	}
	return &model
}

// startPoets is a server with two models that answer prompts, whose first is the default, and none of another kind.
func startPoets(t *testing.T) (socket string) {
	t.Helper()
	poets := map[string]*fakeserver.Model{"": poet("villon"), "villon": poet("villon"), "rutebeuf": poet("rutebeuf")}
	f := &fakeserver.Listener{
		Path:         filepath.Join(t.TempDir(), "sock"),
		Slots:        4,
		Behaviour:    func() fakeserver.Behaviour { return fakeserver.Behaviour{} },
		StreamModels: func(name string) *fakeserver.Model { return poets[name] },
		Asked: func(string) []byte {
			return fakeserver.AnswerMessage(shm.ModelInfo{Signature: poets["villon"].Signature, Protocol: "stream", State: "ready"},
				shm.ModelInfo{Signature: poets["rutebeuf"].Signature, Protocol: "stream", State: "ready"})
		},
	}
	if err := f.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f.Path
}

func TestAPromptIsPutToTheModelThatIsNamed(t *testing.T) {
	socket := startPoets(t)
	for line, want := range map[string]string{
		"prompt rain":                       "villon of rain\n",
		"prompt rain -model rutebeuf":       "rutebeuf of rain\n",
		"prompt -wait -model rutebeuf rain": "rutebeuf of rain\n",
		"prompt -wait rain":                 "villon of rain\n",
	} {
		code, stdout, stderr := shmClient(t, append(strings.Fields(line), "-socket", socket)...)
		if code != 0 || stdout != want || stderr != "" {
			t.Errorf("%s: code %d, %q, %q", line, code, stdout, stderr)
		}
	}
	for _, line := range []string{"prompt rain -model nobody", "prompt rain -wait -model nobody"} {
		code, stdout, stderr := shmClient(t, append(strings.Fields(line), "-socket", socket)...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, "shm-server") || !strings.Contains(stderr, "no ") {
			t.Errorf("%s: code %d, %q, %q", line, code, stdout, stderr)
		}
	}
	code, stdout, _ := shmClient(t, "prompt", "-json", "-model", "rutebeuf", "rain", "-socket", socket)
	if lines := strings.Split(stdout, "\n"); code != 0 || !strings.Contains(lines[len(lines)-2], `"done":true,"truncated":false,"model":"rutebeuf"`) {
		t.Errorf("code %d\n%s", code, stdout)
	}
}
