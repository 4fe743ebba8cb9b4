"""Text to tokens and back, with a SentencePiece model.

vocabulary = Vocabulary(Path("tokenizer.model"))
ids = vocabulary.encode("To be, or not")
text = TextStream(vocabulary)
pieces = [text.add(token) for token in ids]        # '' while a character is incomplete
"""

from __future__ import annotations

import codecs
from pathlib import Path

import sentencepiece

from shm_server.models.errors import ModelError

# What instruction-tuned Gemma checkpoints were tuned on: gemma.gm.text's template for one user turn.
CHAT_BEFORE = "<start_of_turn>user\n"
CHAT_AFTER = "<end_of_turn>\n<start_of_turn>model\n"
END_OF_TURN = "<end_of_turn>"

# Tokens that stand for something other than text and must not be drawn.
NOT_TEXT = ("<pad>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<start_of_image>", "<end_of_image>")


class Vocabulary:
    """A SentencePiece model. Its methods may be called from several threads."""

    def __init__(self, path: Path, *, chat: bool = False):
        """Reads the model at `path`. With `chat` prompts are wrapped as a user's turn and the reply
        ends with the model's turn. Raises ModelError."""
        if not path.is_file():
            raise ModelError(f"{path}: no such tokenizer file")
        try:
            self._model = sentencepiece.SentencePieceProcessor()
            self._model.LoadFromSerializedProto(path.read_bytes())  # also an empty file, which the constructor skips
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(f"{path}: not a SentencePiece model") from error
        self.size = self._model.get_piece_size()
        """How many tokens there are."""
        self.longest = max(len(self._model.id_to_piece(token)) for token in range(self.size)) if self.size else 0
        """Characters of the longest token."""
        self._bos = self._model.bos_id()
        if self.size < 4 or self._bos < 0 or self._model.eos_id() < 0:
            raise ModelError(f"{path}: has no tokens for beginning and end of text, Gemma's tokenizers do")
        self.stops = {self._model.eos_id()}
        """The tokens that end a reply."""
        end_of_turn = self._id(END_OF_TURN)
        if end_of_turn is not None:
            self.stops.add(end_of_turn)
        elif chat:
            raise ModelError(f"{path}: has no {END_OF_TURN}, so it fits no instruction-tuned checkpoint")
        self._chat = chat

    def encode(self, prompt: str) -> list[int]:
        """The tokens that the model reads for `prompt`, from the beginning of text on."""
        text = f"{CHAT_BEFORE}{prompt}{CHAT_AFTER}" if self._chat else prompt
        return [self._bos, *self._model.encode(text)]

    def drawable(self) -> list[bool]:
        """For each token, whether a reply may contain it."""
        allowed = [not self._model.is_control(token) for token in range(self.size)]
        for piece in NOT_TEXT:
            token = self._id(piece)
            if token is not None:
                allowed[token] = False
        allowed[self._model.unk_id()] = False
        for token in self.stops:
            allowed[token] = True
        return allowed

    def text_of(self, token: int) -> bytes:
        """The UTF-8 bytes that `token` stands for, which may be a part of a character."""
        if self._model.is_control(token) or token in self.stops:
            return b""
        piece = self._model.id_to_piece(token)
        if self._model.is_byte(token):  # '<0x0A>'
            return bytes((int(piece[3:5], 16),))
        return piece.replace("▁", " ").encode()

    def _id(self, piece: str) -> int | None:
        """The token called `piece`, if there is one."""
        token = self._model.piece_to_id(piece)
        return token if self._model.id_to_piece(token) == piece else None


class TextStream:
    """Turns tokens into text as they come, whole characters at a time."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        # What can not become a character any more is shown as U+FFFD, as SentencePiece does.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The text that `token` completes. Half a character at the end of a reply is never shown."""
        return self._decoder.decode(self._vocabulary.text_of(token))
