"""A GGUF as one of lm-evaluation-harness's language models."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ft_pipeline.errors import ConversionError, EvaluationError
from ft_pipeline.evaluation.harness_decoding import BatchedDecoding, Continuation, Likelihood, Reading
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.quantization.llama_reader import LlamaReader

# What lm-evaluation-harness's own models take where a task does not say.
_NEW_TOKENS = 256
_BOS_KEY, _EOS_KEY = "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"


def make_language_model(model: LlamaModel, cores: int, reader: LlamaReader | None) -> Any:
    """An `lm_eval.api.model.LM` over a loaded model.

    Args:
        model: It must outlive the language model.
        cores: Cores to use.
        reader: Puts questions in the file's chat template; None: they are put as they are.

    Raises:
        EvaluationError: the file names no token to begin a text with.
    """
    from lm_eval.api.model import TemplateLM

    class LanguageModel(_Requests, TemplateLM):  # type: ignore[misc]
        """lm-evaluation-harness's border rule between context and continuation, and our answers."""

    return LanguageModel(model, cores, reader)


class _Requests:
    """lm-evaluation-harness's three kinds of requests, its interface for tokens and for chats."""

    tell: Callable[[int, int], None]

    def __init__(self, model: LlamaModel, cores: int, reader: LlamaReader | None) -> None:
        super().__init__()
        self.tell = lambda _done, _total: None
        self._model = model
        self._decoding = BatchedDecoding(model, cores)
        self._bos = _find_bos(model)
        self._eos = model.vocabulary.eos_id if model.has_key(_EOS_KEY) else None
        prefix = self._eos if self._bos is None else self._bos
        if prefix is None:
            raise EvaluationError(
                f"a GGUF must name a token to begin a text with; {model.path} has neither BOS nor EOS"
            )
        self._prefix = prefix
        self._reader = reader

    @property
    def tokenizer_name(self) -> str:
        return self._model.path.stem

    # -- tokens ------------------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int | None:
        return self._eos

    @property
    def prefix_token_id(self) -> int:
        """What the first token of a text is predicted from: BOS, or EOS where the file names no BOS."""
        return self._prefix

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, after a BOS if the vocabulary asks for one and the text does not begin with it."""
        vocabulary, bos = self._model.vocabulary, self._bos
        ids = vocabulary.tokenize(string)
        adds = vocabulary.adds_bos if add_special_tokens is None else add_special_tokens
        return [bos, *ids] if adds and bos is not None and ids[:1] != [bos] else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        parent: Any = super()
        before, after = parent._encode_pair(context, continuation)
        # A tokenizer that merges the whole continuation into the context's last token leaves nothing to score.
        return before, after or self.tok_encode(continuation, add_special_tokens=False)

    # -- requests ----------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[Likelihood]:
        """For each pair of context and continuation the continuation's log-likelihood, and whether it is the choice."""
        parent: Any = super()
        return list(parent.loglikelihood(requests, disable_tqdm=disable_tqdm))

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> list[Likelihood]:
        return self._decoding.score(
            [self._cut_to_context(before, after) for _, before, after in requests], self._count(len(requests))
        )

    def _cut_to_context(self, before: list[int], after: list[int]) -> Reading:
        """Too long a text loses its beginning, as in lm-evaluation-harness's other models."""
        room = self._model.context_tokens
        if len(after) > room:
            raise EvaluationError(
                f"a continuation must fit into the model's context; one has {len(after)} tokens, the context {room}"
            )
        return Reading([*before, *after][-(room + 1) :][:-1], after)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each text, in windows of the model's context.

        Each token of the text is predicted once and BOS is not: it is what the first token is predicted from.
        """
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        del disable_tqdm
        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self._model.context_tokens,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        pairs = [("", *window) for window in itertools.chain.from_iterable(windows)]
        likelihoods = iter(self._loglikelihood_tokens(pairs))
        return [sum(next(likelihoods)[0] for _ in text) for text in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy answer to each text, up to its stop strings."""
        del disable_tqdm
        questions = [self._make_question(*request.args) for request in requests]
        return self._decoding.answer(questions, self._count(len(requests)))

    def _make_question(self, context: str, settings: Mapping[str, Any]) -> Continuation:
        from lm_eval.models.utils import normalize_gen_kwargs

        wanted: Mapping[str, Any] = normalize_gen_kwargs(dict(settings), _NEW_TOKENS)
        if wanted["do_sample"]:
            raise EvaluationError(
                "a harness task must ask for greedy answers; this one asks for do_sample. Choose another."
            )
        room = self._model.context_tokens - wanted["max_gen_toks"]
        if room < 1:
            raise EvaluationError(
                f"an answer of {wanted['max_gen_toks']} tokens must leave room for a question; the model's context is "
                f"{self._model.context_tokens}. Lower max_gen_toks in the task's generation_kwargs."
            )
        prompt = self.tok_encode(context)[-room:] or [self._prefix]
        return Continuation(prompt, [stop for stop in wanted["until"] if stop], wanted["max_gen_toks"])

    def _count(self, total: int) -> Callable[[int], None]:
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            self.tell(done, total)

        return count

    # -- chats -------------------------------------------------------------------------------------------------------

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The file's own, or None if it is not asked for."""
        return self._model.vocabulary.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation by the file's template, open for the assistant's answer.

        Without a generation prompt the last message is the beginning of that answer.
        """
        assert self._reader is not None  # noqa: S101 - asked for only where a template is applied
        turns = list(chat_history)
        begun = "" if add_generation_prompt else turns.pop()["content"]
        try:
            return self._reader.render(turns, add_generation_prompt=True) + begun
        except ConversionError as err:
            raise EvaluationError(
                f"the chat template of {self._model.path} must render a harness task's questions; {err}"
            ) from err


def _find_bos(model: LlamaModel) -> int | None:
    """Id of the token that begins a text, if there is one.

    Where the file names none, llama.cpp has a default of its own, for BPE vocabularies 11: an ordinary token, unless
    the file asks for a BOS all the same.
    """
    vocabulary = model.vocabulary
    is_meant = vocabulary.bos_id >= 0 and (vocabulary.adds_bos or model.has_key(_BOS_KEY))
    return vocabulary.bos_id if is_meant else None
