from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation import harness_tasks
from ft_pipeline.evaluation.harness import HarnessScore, HarnessSettings, check_harness_tasks, run_harness_tasks
from ft_pipeline.evaluation.harness_model import make_language_model
from ft_pipeline.evaluation.llama_decoder import Decoder
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.quantization.llama_library import Vocabulary
from ft_pipeline.quantization.llama_reader import LlamaReader
from ft_pipeline_tests.evaluation import tiny_gguf
from ft_pipeline_tests.evaluation.tiny_gguf import (
    BOS,
    CONTEXT_TOKENS,
    TOKENS,
    Say,
    make_random_weights,
    write_gguf,
)

LONG = "what is the colour of the sky? " * 30
PAIRS = [
    ("what is the colour", " blue"),
    ("what is the colour", " sky"),
    ("what is the colour", " sky is blue ok"),
    ("what ", "sky"),
    ("", "the sky is blue"),
    ("user", " zz"),
    ("the sky\n", "o"),
    ("a sky of another kind" * 4, " ok"),
    (LONG, " blue"),
    (LONG, " blue sky"),
]
QUESTIONS: list[dict[str, Any]] = [
    {"question": "sky?", "choices": ["blue", "ok", "the colour is blue"], "gold": 0},
    {"question": "what is the colour?", "choices": ["sky", "ok then"], "gold": 1},
    {"question": "ok?", "choices": ["the", "is", "zz"], "gold": 2},
]


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    """What lm-evaluation-harness's dependencies warn of while they are imported is not ours to fail on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        import lm_eval.api.metrics
        import lm_eval.evaluator
        import lm_eval.tasks

        assert datasets.Dataset
        assert lm_eval.evaluator.evaluate


@pytest.fixture(scope="module")
def model(random_gguf: Path) -> Iterator[LlamaModel]:
    with LlamaModel(random_gguf) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def language_model(model: LlamaModel) -> Any:
    return make_language_model(model, 2, None)


@pytest.fixture(scope="module")
def library(random_gguf: Path) -> Iterator[Any]:
    """llama-cpp-python's own high-level class on the same file."""
    from llama_cpp import Llama

    llama = Llama(str(random_gguf), n_ctx=CONTEXT_TOKENS, n_threads=1, logits_all=True, verbose=False)
    yield llama
    llama.close()


def ask(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


def score_by_hand(library: Any, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    """One sequence through the library's class; what does not fit is left out at the beginning."""
    inputs = [*context, *continuation][-(CONTEXT_TOKENS + 1) :][:-1]
    library.reset()
    library.eval(inputs)
    logits = np.array(library.scores[: len(inputs)], np.float64)[-len(continuation) :]
    rows = logits - logits.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return float(rows[range(len(continuation)), continuation].sum()), rows.argmax(axis=1).tolist() == list(continuation)


def split_by_hand(library: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The border as in Hugging Face models: white space at the end of the context belongs to what follows."""
    bare = context.rstrip()
    before = library.tokenize(bare.encode(), add_bos=True, special=True)
    whole = library.tokenize((context + continuation).encode(), add_bos=True, special=True)
    return before, whole[len(before) :]


class Tasks:
    """A folder of tasks and their data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, rows: Sequence[dict[str, Any]] = QUESTIONS, **settings: Any) -> str:
        data = self.folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        cache = str(self.folder / "cache")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": cache},
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "metadata": {"version": 1},
            **settings,
        }
        # JSON is YAML; a function's tag is not.
        text = json.dumps(task).replace('"!function helpers.check"', "!function helpers.check")
        (self.folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        return name

    def add_choices(self, name: str = "tiny_choices", **settings: Any) -> str:
        choices: dict[str, Any] = {"doc_to_choice": "choices", "doc_to_target": "gold"}
        return self.add(name, **{"output_type": "multiple_choice", **choices, **settings})

    def add_answers(self, name: str = "tiny_answers", **settings: Any) -> str:
        rows = [{"question": f"say {n}\n", "answer": answer} for n, answer in enumerate(["sky", "blue", "sky"])]
        answers: dict[str, Any] = {
            "output_type": "generate_until",
            "doc_to_target": "answer",
            "generation_kwargs": {"until": ["!"], "max_gen_toks": 16},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }
        return self.add(name, rows, **{**answers, **settings})

    def run(self, gguf: Path | LlamaModel, *names: str, **settings: Any) -> dict[tuple[str, str], HarnessScore]:
        scores = run_harness_tasks(gguf, HarnessSettings(names, task_folder=self.folder, **settings), cores=2)
        return {(score.task, score.metric): score for score in scores}

    def check(self, *names: str) -> None:
        check_harness_tasks(HarnessSettings(names, task_folder=self.folder))


@pytest.fixture
def tasks(tmp_path: Path) -> Tasks:
    return Tasks(tmp_path)


def test_likelihoods_are_those_of_the_library_in_the_order_of_the_requests(language_model: Any, library: Any) -> None:
    found = language_model.loglikelihood([ask(*pair) for pair in PAIRS])
    for (context, continuation), (logprob, greedy) in zip(PAIRS, found, strict=True):
        # An empty context is BOS alone.
        parts = split_by_hand(library, context, continuation)
        expected = score_by_hand(library, *parts)
        assert logprob == pytest.approx(expected[0], abs=2e-3), (context[:30], continuation)
        assert greedy == expected[1]
    assert len({round(logprob, 3) for logprob, _ in found}) == len(PAIRS)


def test_likelihoods_do_not_depend_on_what_is_asked_beside_them(language_model: Any) -> None:
    together = language_model.loglikelihood([ask(*pair) for pair in PAIRS * 4])
    alone = [language_model.loglikelihood([ask(*pair)])[0] for pair in PAIRS] * 4
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]
    assert [logprob for logprob, _ in together] == pytest.approx([logprob for logprob, _ in alone], abs=2e-3)


def test_a_greedy_continuation_is_told_as_such(language_model: Any, library: Any) -> None:
    context = library.tokenize(b"the sky\n", add_bos=True)
    library.reset()
    library.eval(context)
    choice = int(np.argmax(library.scores[len(context) - 1]))
    other = (choice + 1) % library.n_vocab()
    requests = [("", context, [choice]), ("", context, [other])]
    assert [greedy for _, greedy in language_model._loglikelihood_tokens(requests)] == [True, False]


def test_what_choices_share_is_read_once(language_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    decode = Decoder.decode

    def counting(self: Decoder, pieces: Any) -> Any:
        lengths.extend(len(piece.tokens) for piece in pieces)
        return decode(self, pieces)

    monkeypatch.setattr(Decoder, "decode", counting)
    question = "what is the colour of the sky"
    tokens = len(language_model.tok_encode(question))
    language_model.loglikelihood([ask(question, choice) for choice in ("a", "b", "c", " blue sky", " sky x")])
    # Three choices of one token: one reading. The others read their own tokens but the last, and one before them.
    assert lengths[0] == tokens
    assert sum(lengths) < 2 * tokens


def test_a_continuation_that_is_merged_into_the_context_is_scored_by_itself(language_model: Any, library: Any) -> None:
    ((logprob, _),) = language_model.loglikelihood([ask("sky o", "k")])
    before = library.tokenize(b"sky o", add_bos=True)
    assert library.tokenize(b"sky ok", add_bos=True)[len(before) :] == []
    after = library.tokenize(b"k", add_bos=False)
    assert logprob == pytest.approx(score_by_hand(library, before, after)[0], abs=2e-3)


def test_a_continuation_longer_than_the_context_is_refused(language_model: Any) -> None:
    with pytest.raises(
        EvaluationError, match=r"must fit into the model's context; one has 300 tokens, the context 256"
    ):
        language_model.loglikelihood([ask("sky", "z" * 300)])


def test_a_long_text_is_read_in_windows_and_each_token_predicted_once(language_model: Any, library: Any) -> None:
    texts = ["the sky is blue", LONG, ""]
    found = language_model.loglikelihood_rolling([ask(text) for text in texts])
    for text, logprob in zip(texts, found, strict=True):
        tokens = library.tokenize(text.encode(), add_bos=False, special=True) if text else []
        expected = 0.0
        for start in range(0, len(tokens), CONTEXT_TOKENS):
            part = tokens[start : start + CONTEXT_TOKENS]
            # The last window reaches back: it sees as much as the others.
            seen = [BOS, *tokens][max(0, start + len(part) - CONTEXT_TOKENS) : start + 1]
            expected += score_by_hand(library, seen, part)[0]
        assert logprob == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert len(library.tokenize(LONG.encode())) > 2 * CONTEXT_TOKENS


def test_answers_are_those_of_the_library_in_the_order_of_the_requests(language_model: Any, library: Any) -> None:
    prompts = [f"{'what ' * (n % 5)}is {n}" for n in range(20)]
    found = language_model.generate_until([ask(prompt, {"until": [], "max_gen_toks": 6}) for prompt in prompts])
    for prompt, answer in zip(prompts, found, strict=True):
        tokens: list[int] = []
        library.reset()
        for token in library.generate(library.tokenize(prompt.encode(), special=True), temp=0.0, reset=True):
            if language_model._model.vocabulary.ends_generation(int(token)):
                break
            tokens.append(int(token))
            if len(tokens) == 6:
                break
        assert answer == language_model._model.decode_text(tokens)


@pytest.mark.parametrize(
    ("until", "answer"),
    [
        (["blu"], "thesky"),
        (["q", "yb"], "thesk"),
        ("e", "th"),
        (["", "<|im_end|>"], "theskyblu"),
        ([], "theskyblu"),
    ],
)
def test_an_answer_ends_before_its_stop_string(saying: Say, until: Any, answer: str) -> None:
    with LlamaModel(saying(b"theskyblu")) as model:
        language_model = make_language_model(model, 1, None)
        assert language_model.generate_until([ask("say\n", {"until": until, "max_gen_toks": 40})]) == [answer]


def test_an_answer_that_never_ends_is_cut_and_decoding_stops_at_a_stop_string(
    saying: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    decode = Decoder.decode

    def counting(self: Decoder, pieces: Any) -> Any:
        steps.append(len(pieces))
        return decode(self, pieces)

    monkeypatch.setattr(Decoder, "decode", counting)
    with LlamaModel(saying(b"ab!", stops=False)) as model:
        language_model = make_language_model(model, 1, None)
        requests = [ask("say\n", {"until": [], "max_gen_toks": 9}), ask("say\n", {"until": ["b!"], "max_gen_toks": 9})]
        assert language_model.generate_until(requests) == ["ab!!!!!!!", "a"]
    assert steps == [2, 2, 2, 1, 1, 1, 1, 1, 1]


def test_a_question_longer_than_the_context_loses_its_beginning(language_model: Any) -> None:
    settings = {"until": [], "max_gen_toks": 6}
    tokens = language_model.tok_encode(LONG)
    tail = language_model._model.decode_text(tokens[-(CONTEXT_TOKENS - 6) :])
    whole, cut = language_model.generate_until([ask(LONG, settings), ask(LONG[-len(tail) :], settings)])
    # The same text but for the BOS, which was cut off with the beginning.
    assert len(language_model.tok_encode(LONG[-len(tail) :])) == CONTEXT_TOKENS - 6 + 1
    assert whole == cut


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": True, "temperature": 0.7}, "must ask for greedy answers"),
        ({"temperature": 0.7}, "must ask for greedy answers"),
        ({}, r"an answer of 256 tokens must leave room.*context is 256\. Lower max_gen_toks"),
    ],
)
def test_refuses_answers_that_the_model_cannot_give(
    language_model: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        language_model.generate_until([ask("sky", {"until": ["x"], **settings})])


def test_a_chat_has_one_bos_and_an_open_turn_that_may_be_begun(model: LlamaModel) -> None:
    turns = [{"role": "user", "content": "sky?"}, {"role": "assistant", "content": "blue"}]
    with LlamaReader(Vocabulary(model.handle)) as reader:
        language_model = make_language_model(model, 1, reader)
        asked = language_model.apply_chat_template(turns[:1])
        begun = language_model.apply_chat_template(turns, add_generation_prompt=False)
    assert asked == "<s><|im_start|>user\nsky?<|im_end|>\n<|im_start|>assistant\n"
    assert begun == asked + "blue"
    assert language_model.tok_encode(asked).count(BOS) == 1
    assert language_model.tok_encode("sky")[0] == BOS


def test_a_template_without_a_system_role_is_given_it_as_llama_cpp_does(tmp_path: Path) -> None:
    strict = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    path = write_gguf(tmp_path / "m.gguf", make_random_weights(0, 1), template=strict + "{{ m.content }}{% endfor %}")
    with LlamaModel(path) as model, LlamaReader(Vocabulary(model.handle)) as reader:
        language_model = make_language_model(model, 1, reader)
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "sky?"}]
        assert language_model.apply_chat_template(turns) == "Be brief.\nsky?"


def test_a_vocabulary_that_adds_no_bos_gets_none_but_before_the_first_token(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_random_weights(0, 1), template=None, add_bos=False)
    with LlamaModel(path) as model:
        language_model = make_language_model(model, 1, None)
        assert BOS not in language_model.tok_encode("the sky")
        assert language_model.prefix_token_id == BOS


@pytest.mark.parametrize(("named", "prefix"), [({"bos": 7, "eos": 9}, 7), ({"eos": 9}, 9), ({}, None)])
def test_no_token_is_taken_for_bos_that_the_file_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, int], prefix: int | None
) -> None:
    def add_bpe(writer: Any, _add_bos: bool) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([f"t{number}" for number in range(len(TOKENS))])
        writer.add_token_merges(["t 1"])
        for name, token in named.items():
            getattr(writer, f"add_{name}_token_id")(token)

    monkeypatch.setattr(tiny_gguf, "add_vocabulary", add_bpe)
    with LlamaModel(write_gguf(tmp_path / "bpe.gguf", make_random_weights(0, 1))) as model:
        # llama.cpp's default, an ordinary token here.
        assert (model.vocabulary.bos_id == 11) == ("bos" not in named)
        if prefix is None:
            with pytest.raises(EvaluationError, match=r"must name a token .*/bpe\.gguf has neither BOS nor EOS"):
                make_language_model(model, 1, None)
        else:
            assert make_language_model(model, 1, None).prefix_token_id == prefix


def test_chats_need_a_chat_template(tasks: Tasks, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_random_weights(0, 1), template=None)
    with pytest.raises(EvaluationError, match=r"needs a chat template; .*m\.gguf carries none"):
        tasks.run(path, tasks.add_choices(), chat=True)


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_choices_are_scored_as_by_hand(tasks: Tasks, random_gguf: Path, library: Any) -> None:
    scores = tasks.run(random_gguf, tasks.add_choices())
    right = {"acc": 0, "acc_norm": 0}
    for row in QUESTIONS:
        found = [score_by_hand(library, *split_by_hand(library, row["question"], f" {c}"))[0] for c in row["choices"]]
        lengths = [len(choice) for choice in row["choices"]]
        right["acc"] += int(np.argmax(found)) == row["gold"]
        right["acc_norm"] += int(np.argmax(np.array(found) / lengths)) == row["gold"]
    for metric, count in right.items():
        score = scores["tiny_choices", metric]
        assert (score.n, score.higher_is_better) == (3, True)
        assert score.value == pytest.approx(count / 3)
        assert score.stderr == pytest.approx((score.value * (1 - score.value) / 2) ** 0.5)


def test_answers_are_scored_and_limited(tasks: Tasks, saying: Say) -> None:
    gguf = saying(b"sky!a")
    name = tasks.add_answers()
    (score,) = tasks.run(gguf, name).values()
    assert score.value == pytest.approx(2 / 3)
    assert score.stderr == pytest.approx(1 / 3)
    assert replace(score, value=0, stderr=0) == HarnessScore(name, "exact_match", 0, 0, 3, higher_is_better=True)
    limited = tasks.run(gguf, name, limit=1)[name, "exact_match"]
    assert (limited.value, limited.n, limited.stderr) == (1.0, 1, None)


def test_perplexity_is_that_of_the_library(tasks: Tasks, random_gguf: Path, library: Any) -> None:
    texts = ["the sky is blue", "what is the colour of a kind of sky " * 5]
    name = tasks.add(
        "tiny_text",
        [{"text": text} for text in texts],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
    )
    total = sum(score_by_hand(library, [BOS], library.tokenize(text.encode(), add_bos=False))[0] for text in texts)
    scores = tasks.run(random_gguf, name)
    words, size = sum(len(text.split()) for text in texts), sum(len(text.encode()) for text in texts)
    # lm-evaluation-harness counts the pieces between white space, an empty last one included.
    assert scores[name, "byte_perplexity"].value == pytest.approx(np.exp(-total / size), rel=1e-3)
    assert scores[name, "word_perplexity"].value == pytest.approx(np.exp(-total / (words + 1)), rel=1e-3)
    assert scores[name, "word_perplexity"].higher_is_better is False


def test_a_chat_task_is_put_in_the_template(tasks: Tasks, saying: Say) -> None:
    # This model speaks after a line break alone, and the template's is the only one.
    rows = [{"question": "say", "answer": "ok"}]
    name = tasks.add_answers()
    (tasks.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with LlamaModel(saying(b"ok!")) as model:
        assert tasks.run(model, name, chat=True)[name, "exact_match"].value == 1
        assert tasks.run(model, name)[name, "exact_match"].value == 0


def test_a_group_gives_its_own_figure_and_a_tag_those_of_its_tasks(tasks: Tasks, saying: Say) -> None:
    names = [tasks.add_answers(f"tiny_{n}", tag="tiny_tag") for n in range(2)]
    group = {"group": "tiny_group", "task": names, "aggregate_metric_list": [{"metric": "exact_match"}]}
    (tasks.folder / "group.yaml").write_text(json.dumps(group), encoding="utf-8")
    with LlamaModel(saying(b"sky!a")) as model:
        (score,) = tasks.run(model, "tiny_group").values()
        assert (score.task, score.n) == ("tiny_group", 6)
        assert score.value == pytest.approx(2 / 3)
        assert [*tasks.run(model, "tiny_tag")] == [(name, "exact_match") for name in names]


def test_a_task_that_shares_a_tag_with_a_refused_one_may_run(tasks: Tasks) -> None:
    tasks.add_choices("tiny_unsafe", tag="tiny_tag", unsafe_code=True)
    tasks.check(tasks.add_choices(tag="tiny_tag"))
    with pytest.raises(EvaluationError, match=r"'tiny_tag' must run no code .*; tiny_unsafe runs the model's answers"):
        tasks.check("tiny_tag")


def test_is_silent_and_leaves_nothing_changed(
    tasks: Tasks, random_gguf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tasks.folder)
    monkeypatch.delenv("DISABLE_MULTIPROC", raising=False)
    name = tasks.add_choices()
    before = {path.name for path in tasks.folder.iterdir()}
    capfd.readouterr()
    tasks.run(random_gguf, name)
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in tasks.folder.iterdir()} - before == {"cache"}
    assert "DISABLE_MULTIPROC" not in os.environ


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_says_how_to_install_what_is_missing(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_tasks, "find_spec", lambda _name: None)
    with pytest.raises(EvaluationError, match=r"lm-eval is not installed\. Run pip install 'ft-pipeline\[harness\]'"):
        tasks.check("arc_easy")


def test_refuses_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"task_folder must be a folder; .*nowhere is none"):
        check_harness_tasks(HarnessSettings(("a",), task_folder=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"unsafe_code": True}, "runs the model's answers as programs"),
        ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "downloads the program of its metric acc"),
        ({"metric_list": [{"metric": "unheard_of"}]}, "downloads the program of its metric unheard_of"),
    ],
)
def test_refuses_a_task_that_runs_foreign_code(tasks: Tasks, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(EvaluationError, match=f"no code from the Hub and none that the model writes; .*{reason}"):
        tasks.check(tasks.add_choices(**settings))


@pytest.mark.parametrize("line", ["load(x, trust_remote_code=True)", "evaluate.load('rouge')"])
def test_refuses_a_task_whose_helpers_load_foreign_code_before_they_run(tasks: Tasks, line: str) -> None:
    (tasks.folder / "helpers.py").write_text(f"raise SystemExit\n{line}\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"helpers\.py says (trust_remote_code=True|evaluate\.load\()"):
        tasks.check(tasks.add_choices(process_results="!function helpers.check"))


def test_names_a_task_whose_own_code_fails(tasks: Tasks, random_gguf: Path) -> None:
    (tasks.folder / "helpers.py").write_text("def check(doc, results):\n    return {}['nothing']\n", encoding="utf-8")
    name = tasks.add_choices(process_results="!function helpers.check", metric_list=[{"metric": "acc"}])
    with pytest.raises(
        EvaluationError, match="harness task 'tiny_choices' must run; it fails with KeyError: 'nothing'"
    ):
        tasks.run(random_gguf, name)


def test_names_the_data_set_that_cannot_be_had(
    tasks: Tasks, random_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = tasks.add_choices(dataset_path="somebody/unheard-of", dataset_kwargs={})
    with pytest.raises(
        EvaluationError, match="'tiny_choices' must load; it does not, with the data set somebody/unheard"
    ):
        tasks.run(random_gguf, name)


def test_a_data_set_that_is_a_script_is_not_run(tasks: Tasks, random_gguf: Path) -> None:
    script = tasks.folder / "scripted"
    script.mkdir()
    (script / "scripted.py").write_text("raise SystemExit\n", encoding="utf-8")
    kwargs = {"trust_remote_code": True}
    name = tasks.add_choices(dataset_path=str(script), dataset_kwargs=kwargs)
    with pytest.raises(EvaluationError, match=r"'tiny_choices' must load.*one that is a script is not run"):
        tasks.run(random_gguf, name)


@pytest.mark.slow
def test_finds_and_refuses_the_package_s_own_tasks() -> None:
    check_harness_tasks(HarnessSettings(("arc_easy", "gsm8k", "mmlu")))
    for name in ("humaneval", "niah_single_1", "squadv2"):
        with pytest.raises(EvaluationError, match=f"harness task '{name}' must run no code from the Hub"):
            check_harness_tasks(HarnessSettings((name,)))
    with pytest.raises(EvaluationError, match=r"there is no 'helaswag'\. Nearest: .*hellaswag"):
        check_harness_tasks(HarnessSettings(("helaswag",)))
