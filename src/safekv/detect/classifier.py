"""Stage 2: a small token classifier that finds names, addresses and numbers by their context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from safekv.detect.base import LOOK_AHEAD, UNREADABLE, Document, Finding, Located
from safekv.detect.config import DetectConfig
from safekv.detect.manifest import MODEL, TOKENIZER, Manifest, read_model, shipped_folder
from safekv.errors import ConfigError, DetectorError, ModelError
from safekv.types import Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from safekv.detect.encoding import Encoder, Pieces

    Floats: TypeAlias = NDArray[np.float32]
    Places: TypeAlias = NDArray[np.int64]

BATCH_WINDOWS: Final = 8
"""Windows in one call of the runtime: more gain nothing on a CPU and hold more memory."""

SLOW_FUSIONS: Final = ("SkipLayerNormFusion",)
"""What onnxruntime 1.31 fuses into a kernel slower than its parts: a sixth of all time on a CPU."""

MAX_UNREAD: Final = 0.25
"""Of a block's characters that are not blank, the share that was not read that is let pass."""

FOREIGN_FROM: Final = 0x0370
"""Greek, the first script behind Latin and its accents; what follows is foreign, but for these."""

NOT_FOREIGN: Final = (
    (0x1E00, 0x1EFF), (0x2000, 0x2BFF), (0x2C60, 0x2C7F), (0x2E00, 0x2E7F), (0x3000, 0x303F),
    (0xA700, 0xA7FF), (0xAB30, 0xAB6F), (0xFB00, 0xFB06), (0xFE00, 0xFE6F), (0xFF00, 0xFF5E),
    (0xFFE0, 0xFFFF), (0x1F000, 0x1FAFF),
)  # fmt: skip
"""More of Latin, punctuation, symbols and emoji, as ranges of code points, ends included."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One text as the network saw it. Rows of `scores` are pieces, columns sensitive labels."""

    pieces: Pieces
    starts: Places = field(repr=False)
    ends: Places = field(repr=False)
    scores: Floats = field(repr=False)

    @property
    def risks(self) -> Floats:
        """For each piece the probability that it is sensitive, whatever its label."""
        total: Floats = self.scores.sum(axis=1)
        return total


class TokenClassifier:
    """Vetoes blocks whose most sensitive word piece is likelier so than the manifest allows.

    A block's score is the highest probability, over its pieces and over the windows that
    hold them, that a piece is of a sensitive label. Text is read in windows that share 24
    pieces, so nothing shorter straddles an edge. A block of which a quarter cannot be read
    in the model's vocabulary, or is in another script than Latin, in which alone models are
    trained, is never shareable. Runs on one CPU thread, by onnxruntime and
    tokenizers alone. Thread-safe; no mutable state.
    """

    name = "classifier"

    def __init__(
        self,
        manifest: Manifest,
        encoder: Encoder,
        session: Any,
        *,
        bias: float = 0.0,
        lookahead_chars: int = 64,
    ) -> None:
        """`bias` is added to the log-odds of "sensitive", beside the manifest's for each label:
        above 0 more is found, and flagged.
        """
        self.manifest = manifest
        self._encoder = encoder
        self._session = session
        self._lookahead_chars = lookahead_chars
        self._sensitive = [manifest.labels.index(label) for label in manifest.sensitive]
        self._biases = [bias + manifest.biases.get(label, 0.0) for label in manifest.sensitive]

    @classmethod
    def from_folder(
        cls, folder: Path, *, bias: float = 0.0, lookahead_chars: int = 64
    ) -> TokenClassifier:
        """The classifier that `safekv detect train` left in `folder`, each file verified.

        Raises `ModelError` for a missing, damaged or unfit file, `ConfigError` without the
        extra `classify`. Costs some 100 ms.
        """
        try:
            import onnxruntime

            from safekv.detect.encoding import Encoder
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the token classifier needs the package {error.name}",
                "pip install 'safekv[classify]', or leave classifier out of detect.stages",
            ) from error
        manifest, files = read_model(folder)
        try:
            encoder = Encoder(files[TOKENIZER].decode())
            session = onnxruntime.InferenceSession(
                files[MODEL],
                _one_thread(onnxruntime),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=SLOW_FUSIONS,
            )
            _require_fit(session, manifest)
        except ModelError:
            raise
        except Exception as error:  # the runtime raises classes of its own
            raise ModelError(
                f"classifier {folder} cannot be loaded ({type(error).__name__})",
                "make it again with `safekv detect train`",
            ) from error
        return cls(manifest, encoder, session, bias=bias, lookahead_chars=lookahead_chars)

    @classmethod
    def from_config(cls, config: DetectConfig) -> TokenClassifier:
        """As `from_folder`, by `config`: its folder or the shipped one, bias and look-ahead."""
        return cls.from_folder(
            config.classifier or shipped_folder(),
            bias=config.classifier_bias,
            lookahead_chars=config.lookahead_chars,
        )

    def judge(self, document: Document) -> list[Finding]:
        """One finding per block. Raises `DetectorError` when the runtime fails."""
        (findings,) = self.judge_all([document])
        return findings

    def judge_all(self, documents: Sequence[Document]) -> list[list[Finding]]:
        """The findings of each document; their windows run through the network together."""
        texts = [document.text if document.block_ends else "" for document in documents]
        return [
            self._findings(document, reading)
            for document, reading in zip(documents, self.read(texts), strict=True)
        ]

    def locate(self, text: str) -> list[Located]:
        """Where `text` is sensitive, in characters: neighbouring pieces of one label as one."""
        (reading,) = self.read([text])
        labels = reading.scores.argmax(axis=1)
        found: list[Located] = []
        behind = -2
        for i in (reading.risks >= self.manifest.private_from).nonzero()[0].tolist():
            start, end = reading.pieces.offsets[i]
            label = self.manifest.sensitive[labels[i]].lower()
            risk = round(float(reading.risks[i]), 4)
            last = found[-1] if found else None
            if last is not None and i == behind + 1 and last.kind == label:
                found[-1] = Located(last.start, end, label, self.name, max(last.confidence, risk))
            else:
                found.append(Located(start, end, label, self.name, risk))
            behind = i
        return found

    def _findings(self, document: Document, reading: Reading) -> list[Finding]:
        unread = _unread_share(document, reading, self._encoder.unknown_id)
        cleared_to = len(document.text) - self._lookahead_chars
        start = 0
        findings: list[Finding] = []
        for number, end in enumerate(document.block_ends):
            finding = self._finding(reading, start, end)
            if finding.verdict is not Verdict.PRIVATE:
                if start == end or unread[number] > MAX_UNREAD:
                    finding = UNREADABLE
                elif end > cleared_to:
                    finding = LOOK_AHEAD
            findings.append(finding)
            start = end
        return findings

    def _finding(self, reading: Reading, start: int, end: int) -> Finding:
        """What the pieces that overlap `[start, end)` say, however little was read of it."""
        first = int(reading.ends.searchsorted(start, side="right"))
        last = int(reading.starts.searchsorted(end, side="left"))
        if first >= last:
            return Finding(Verdict.SHAREABLE, "clean")
        risks = reading.risks[first:last]
        at = int(risks.argmax())
        risk = min(1.0, float(risks[at]))
        if risk < self.manifest.unsure_from:
            return Finding(Verdict.SHAREABLE, "clean", round(1.0 - risk, 4))
        label = self.manifest.sensitive[int(reading.scores[first + at].argmax())].lower()
        sure = risk >= self.manifest.private_from
        verdict = Verdict.PRIVATE if sure else Verdict.UNSURE
        return Finding(verdict, f"classifier-{label}", round(risk, 4))

    # -- the network -----------------------------------------------------------------------

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Each text through the network, windows of all texts in batches of like length."""
        import numpy as np

        from safekv.detect.encoding import windows

        pieces = [self._encoder.encode(text) for text in texts]
        readings = [_unread(one, len(self._sensitive)) for one in pieces]
        cuts = [
            (number, start, end)
            for number, one in enumerate(pieces)
            for start, end in windows(len(one))
        ]
        cuts.sort(key=lambda cut: cut[2] - cut[1])
        for at in range(0, len(cuts), BATCH_WINDOWS):
            batch = cuts[at : at + BATCH_WINDOWS]
            found = self._scores(pieces, batch)
            for (number, start, end), scores in zip(batch, found, strict=True):
                known = readings[number].scores[start:end]
                np.maximum(known, scores, out=known)
        return readings

    def _scores(
        self, pieces: Sequence[Pieces], batch: Sequence[tuple[int, int, int]]
    ) -> Iterator[Floats]:
        """For each window of `batch` (text, start, end) the probabilities of sensitive labels."""
        import numpy as np

        size = 2 + max(end - start for _, start, end in batch)
        ids = np.full((len(batch), size), self._encoder.pad_id, dtype=np.int64)
        shapes, present = np.zeros_like(ids), np.zeros_like(ids)
        for row, (number, start, end) in enumerate(batch):
            last = end - start + 1
            ids[row, 0], ids[row, last] = self._encoder.first_id, self._encoder.last_id
            ids[row, 1:last] = pieces[number].ids[start:end]
            shapes[row, 1:last] = pieces[number].shapes[start:end]
            present[row, : last + 1] = 1
        places = np.broadcast_to(np.arange(size, dtype=np.int64), ids.shape)
        inputs = {"ids": ids, "shapes": shapes, "present": present, "places": places}
        try:
            (logits,) = self._session.run(["scores"], inputs)
        except Exception as error:
            raise DetectorError(f"the token classifier failed ({type(error).__name__})") from error
        odds = self._biased(np.asarray(logits, dtype=np.float32))
        for row, (_, start, end) in enumerate(batch):
            yield odds[row, 1 : end - start + 1]

    def _biased(self, logits: Floats) -> Floats:
        """Probabilities of sensitive labels with their biases. Raises if they are no numbers."""
        import numpy as np

        logits = logits.copy()
        logits[..., self._sensitive] += np.array(self._biases, dtype=np.float32)
        logits -= logits.max(axis=-1, keepdims=True)
        shares = np.exp(logits)
        shares /= shares.sum(axis=-1, keepdims=True)
        if not np.isfinite(shares).all():
            raise DetectorError("the token classifier's answer is not a number")
        chosen: Floats = shares[..., self._sensitive]
        return chosen


def _unread(pieces: Pieces, labels: int) -> Reading:
    import numpy as np

    offsets = np.array(pieces.offsets, dtype=np.int64).reshape(len(pieces), 2)
    return Reading(
        pieces, offsets[:, 0], offsets[:, 1], np.zeros((len(pieces), labels), dtype=np.float32)
    )


def _unread_share(document: Document, reading: Reading, unknown_id: int) -> list[float]:
    """Of each block's characters that are not blank, the share that was not read.

    That is what no known piece covers, and letters of other scripts: single ones are in the
    vocabulary, but the model never learnt what names look like there.
    """
    import numpy as np

    text = document.text
    edges = np.zeros(len(text) + 1, dtype=np.int64)
    known = np.array(reading.pieces.ids, dtype=np.int64) != unknown_id
    np.add.at(edges, reading.starts[known], 1)
    np.add.at(edges, reading.ends[known], -1)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    inked = ~np.isin(points, [ord(c) for c in " \t\n\f\r\xa0"])
    unread = inked & ((edges.cumsum()[:-1] == 0) | _foreign(points))
    before_ink = np.concatenate(([0], inked.cumsum()))
    before_unread = np.concatenate(([0], unread.cumsum()))
    ends = np.array(document.block_ends, dtype=np.int64)
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
    ink = np.maximum(before_ink[ends] - before_ink[starts], 1)
    shares: list[float] = ((before_unread[ends] - before_unread[starts]) / ink).tolist()
    return shares


def _foreign(points: Any) -> Any:
    """Which of these code points belong to other scripts than Latin. O(characters)."""
    foreign = points >= FOREIGN_FROM
    if foreign.any():
        for first, last in NOT_FOREIGN:
            foreign &= (points < first) | (points > last)
    return foreign


def _one_thread(onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its log may quote shapes of prompts
    return options


def _require_fit(session: Any, manifest: Manifest) -> None:
    inputs = {one.name for one in session.get_inputs()}
    (scores,) = session.get_outputs()
    if inputs != {"ids", "shapes", "present", "places"} or scores.name != "scores":
        raise ModelError("the classifier's network has other inputs or outputs", "train it again")
    if scores.shape[-1] != len(manifest.labels):
        raise ModelError(
            f"the classifier's network has {scores.shape[-1]} labels, "
            f"its manifest {len(manifest.labels)}",
            "train it again",
        )
