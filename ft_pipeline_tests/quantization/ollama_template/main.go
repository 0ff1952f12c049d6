// Executes chat templates as Ollama does (template/template.go and thinking/template.go there), with Go's own
// text/template: cases as JSON on standard input, results as JSON on standard output.
package main

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
)

type message struct {
	Role     string
	Content  string
	Thinking string
}

type testCase struct {
	Template string
	Messages []*message
}

type result struct {
	Text    string
	Error   string
	Opening string
	Closing string
}

func main() {
	var cases []testCase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	results := make([]result, len(cases))
	for i, one := range cases {
		if err := render(one, &results[i]); err != nil {
			results[i].Error = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		panic(err)
	}
}

func render(one testCase, into *result) error {
	functions := template.FuncMap{"json": func(value any) string {
		text, _ := json.Marshal(value)
		return string(text)
	}}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(one.Template)
	if err != nil {
		return err
	}
	seen := walk(parsed)
	if !seen.messages {
		return errors.New("Ollama executes a template without .Messages turn by turn")
	}
	if seen.bareCall {
		return errors.New("Ollama's walk fails on a template action without an argument")
	}
	into.Opening, into.Closing = seen.opening, seen.closing
	system, messages := collate(one.Messages)
	var text strings.Builder
	err = parsed.Execute(&text, map[string]any{
		"System": system, "Messages": messages, "Tools": nil, "Response": "", "Think": false, "IsThinkSet": false,
	})
	into.Text = text.String()
	return err
}

// Neighbours of one role become one message; all system messages together are .System.
func collate(messages []*message) (string, []*message) {
	var system []string
	var merged []*message
	for _, next := range messages {
		if next.Role == "system" {
			system = append(system, next.Content)
		}
		if last := len(merged) - 1; last >= 0 && merged[last].Role == next.Role && next.Role != "tool" {
			merged[last].Content += "\n\n" + next.Content
			continue
		}
		merged = append(merged, next)
	}
	return strings.Join(system, "\n\n"), merged
}

type findings struct {
	messages bool
	bareCall bool
	opening  string
	closing  string
}

func walk(parsed *template.Template) findings {
	var found findings
	for _, each := range parsed.Templates() {
		found.look(each.Root, nil)
	}
	return found
}

func (f *findings) look(node parse.Node, around *parse.ListNode) {
	switch n := node.(type) {
	case *parse.ListNode:
		for _, each := range n.Nodes {
			f.look(each, n)
		}
	case *parse.IfNode:
		f.lookAtBranch(&n.BranchNode, around)
	case *parse.RangeNode:
		f.lookAtBranch(&n.BranchNode, around)
	case *parse.WithNode:
		f.lookAtBranch(&n.BranchNode, around)
	case *parse.ActionNode:
		f.look(n.Pipe, around)
	case *parse.TemplateNode:
		if n.Pipe == nil {
			f.bareCall = true
			return
		}
		f.look(n.Pipe, around)
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			for _, each := range command.Args {
				f.look(each, around)
			}
		}
	case *parse.FieldNode:
		f.messages = f.messages || n.Ident[0] == "Messages"
		if n.Ident[0] == "Thinking" && around != nil {
			f.takeTags(around)
		}
	}
}

func (f *findings) lookAtBranch(branch *parse.BranchNode, around *parse.ListNode) {
	f.look(branch.Pipe, around)
	f.look(branch.List, around)
	if branch.ElseList != nil {
		f.look(branch.ElseList, around)
	}
}

// The tags of a reasoning model are the texts that the list around .Thinking begins and ends with.
func (f *findings) takeTags(around *parse.ListNode) {
	if text, ok := around.Nodes[0].(*parse.TextNode); ok {
		f.opening = strings.TrimSpace(text.String())
	}
	if text, ok := around.Nodes[len(around.Nodes)-1].(*parse.TextNode); ok {
		f.closing = strings.TrimSpace(text.String())
	}
}
