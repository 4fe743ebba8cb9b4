"""The client's look at a segment that a server handed out: its header, copied once and checked; its rows as arrays.

The checks are those of layout.md, "What is rejected, and how". All that is trusted later comes from the copy.
"""

import itertools
import math

import numpy as np

from shm_server import layout
from shm_server.client.errors import ProtocolError
from shm_server.layout import DATATYPE_BYTES, Datatype, Protocol
from shm_server.models.tensor import DATATYPES

FEATURES_KNOWN = 0  # none is defined yet


class Header:
    """A private copy of a segment's first page, checked. ProtocolError names the rule that it breaks.

    `lane` is of `layout.lane`; `inputs` and `outputs`, (n,) each, are of `layout.tensor`.
    """

    def __init__(self, page: bytes, *, size: int, epoch: int) -> None:
        """`page` is the copy; `size`, in bytes, and `epoch` are what the welcome said."""
        self.page = page
        _check_identity(np.frombuffer(page, layout.header, 1)[0], size, epoch)
        self.lane = np.frombuffer(page, layout.lane, 1, layout.LANE_OFFSET)[0]
        _check_lane(self.lane)
        inputs, count = int(self.lane["input_count"]), int(self.lane["input_count"]) + int(self.lane["output_count"])
        tensors = np.frombuffer(page, layout.tensor, count, layout.TENSORS_OFFSET)
        self.inputs, self.outputs = tensors[:inputs], tensors[inputs:]
        self.slots, self.streams = int(self.lane["slot_count"]), self.lane["protocol"] == Protocol.STREAM
        for tensor in tensors:
            _check_tensor(tensor)
        self._check_symbolic()
        self._check_areas(size)

    def rows(self, memory: memoryview, tensor: np.ndarray) -> np.ndarray:
        """The slots' rows of a tensor in place: (slots, *dims), a symbolic dimension at its bound."""
        dtype = DATATYPES[Datatype(tensor["datatype"]).name]
        dims = tuple(int(dim) for dim in tensor["dims"][: tensor["rank"]])
        row_bytes = int(tensor["row_bytes"])
        # `frombuffer` holds on to the mapping, which np.ndarray would not.
        area = np.frombuffer(memory, np.uint8, self.slots * row_bytes, int(tensor["offset"]))
        return np.ndarray((self.slots, *dims), dtype, area, 0, (row_bytes, *np.empty(dims, dtype).strides))

    def _check_symbolic(self) -> None:
        if self.streams:
            _expect(len(self.inputs) == len(self.outputs) == 1, "geometry", "a stream lane has one input, one output")
            for tensor in (*self.inputs, *self.outputs):
                text = tensor["datatype"] == Datatype.UINT8 and tensor["rank"] == tensor["symbolic"] == 1
                _expect(text and tensor["dims"][0] <= layout.MAX_TEXT_BYTES, "geometry", "a stream lane without text")
            prompt, reply = int(self.inputs[0]["dims"][0]), int(self.outputs[0]["dims"][0])
            _expect(prompt <= reply, "geometry", f"prompts of {prompt} bytes with replies of {reply}")
            return
        bounds = {int(tensor["dims"][0]) for tensor in (*self.inputs, *self.outputs) if tensor["symbolic"]}
        _expect(len(bounds) <= 1, "geometry", f"one symbolic dimension with bounds {sorted(bounds)}")
        ours = any(tensor["symbolic"] for tensor in self.inputs)
        _expect(ours or not bounds, "geometry", "an output's dimension is symbolic, and no input says how long it is")

    def _check_areas(self, size: int) -> None:
        """Each area begins on a page behind the header, ends in the segment, and shares no byte with another."""
        lane, slots = self.lane, self.slots
        areas = [
            (int(lane["submissions_offset"]), int(lane["submission_entries"]) * layout.ENTRY_BYTES, "submissions"),
            (int(lane["completions_offset"]), int(lane["completion_entries"]) * layout.ENTRY_BYTES, "completions"),
            (int(lane["messages_offset"]), slots * layout.MESSAGE_BYTES, "messages"),
        ]
        for side, tensors in (("input", self.inputs), ("output", self.outputs)):
            areas += [(int(t["offset"]), slots * int(t["row_bytes"]), f"{side} {i}") for i, t in enumerate(tensors)]
        if self.streams:
            areas += [(int(lane["controls_offset"]), slots * layout.control.itemsize, "controls")]
            areas += [(int(lane["progress_offset"]), slots * layout.progress.itemsize, "progress")]
        for offset, length, name in areas:
            _expect(offset % layout.PAGE_BYTES == 0, "geometry", f"{name} at {offset}, not on a page")
            _expect(offset >= layout.PAGE_BYTES, "geometry", f"{name} at {offset}, inside the header")
            inside = offset <= size and length <= size - offset
            _expect(inside, "geometry", f"{length} bytes of {name} at {offset} leave the segment of {size} bytes")
        for (offset, length, name), (following, _, other) in itertools.pairwise(sorted(areas)):
            _expect(following - offset >= length, "geometry", f"{name} overlap {other}")


def _check_identity(header: np.ndarray, size: int, epoch: int) -> None:
    magic, major, required = (int(header[name]) for name in ("magic", "layout_major", "features_required"))
    _expect(magic == layout.SEGMENT_MAGIC, "magic", f"the header begins with {magic:#x}, not {layout.SEGMENT_MAGIC:#x}")
    ours = layout.LAYOUT_MAJOR
    _expect(major == ours, "version", f"the segment has layout major {major}, this client speaks {ours}")
    lacking = required & ~FEATURES_KNOWN
    _expect(not lacking, "features", f"the server requires features {lacking:#x} that this client lacks")
    header_bytes, segment_bytes = int(header["header_bytes"]), int(header["segment_bytes"])
    _expect(header_bytes == layout.PAGE_BYTES, "geometry", f"a header of {header_bytes} bytes")
    _expect(segment_bytes == size, "geometry", f"the header says {segment_bytes} bytes, the welcome said {size}")
    said = int(header["epoch"])
    _expect(said and said == epoch, "epoch", f"the header says epoch {said:#x}, the welcome said {epoch:#x}")


def _check_lane(lane: np.ndarray) -> None:
    protocol, slots = int(lane["protocol"]), int(lane["slot_count"])
    _expect(protocol in list(Protocol), "geometry", f"a lane of protocol {protocol}")
    _expect(1 <= slots <= layout.MAX_SLOTS, "geometry", f"{slots} slots, expected 1 to {layout.MAX_SLOTS}")
    for ring, each in (("submission", 1), ("completion", 2 if protocol == Protocol.STREAM else 1)):
        entries = int(lane[f"{ring}_entries"])
        fits = entries.bit_count() == 1 and entries >= each * slots
        _expect(fits, "geometry", f"{entries} {ring} entries for {slots} slots")
    inputs, outputs = int(lane["input_count"]), int(lane["output_count"])
    fits = inputs >= 1 and outputs >= 1 and inputs + outputs <= layout.MAX_TENSORS
    _expect(fits, "geometry", f"{inputs} inputs and {outputs} outputs, expected {layout.MAX_TENSORS} at most together")
    offsets = int(lane["controls_offset"]), int(lane["progress_offset"])
    _expect(protocol == Protocol.STREAM or offsets == (0, 0), "geometry", f"a call lane with controls at {offsets}")


def _check_tensor(tensor: np.ndarray) -> None:
    datatype, rank, symbolic = int(tensor["datatype"]), int(tensor["rank"]), int(tensor["symbolic"])
    _expect(datatype in list(Datatype), "geometry", f"a tensor of datatype {datatype}")
    _expect(1 <= rank <= layout.MAX_RANK, "geometry", f"a tensor of rank {rank}")
    _expect(symbolic in (0, 1), "geometry", f"a tensor with symbolic = {symbolic}")
    dims = [int(dim) for dim in tensor["dims"]]
    _expect(all(dims[:rank]) and not any(dims[rank:]), "geometry", f"a tensor of rank {rank} with dims {dims}")
    valid, row_bytes = math.prod(dims[:rank]) * DATATYPE_BYTES[datatype], int(tensor["row_bytes"])
    wanted = -(-valid // layout.ROW_ALIGNMENT) * layout.ROW_ALIGNMENT
    _expect(row_bytes == wanted, "geometry", f"rows of {row_bytes} bytes, expected {wanted} for dims {dims[:rank]}")


def _expect(right: object, rule: str, detail: str) -> None:
    if not right:
        raise ProtocolError.of(rule, detail)
