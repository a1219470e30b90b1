"""What `architecture.json` may say: every entry with its type and its limits, before it is used.

A file is data of a stranger's. The limits are far above any network that is pruned here, and far
below what would fill a machine's memory.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dsa_core.errors import SurgeryError, first_problem

MAX_CLASSES = 100_000  # outputs; ImageNet-21k has 21,841
MAX_SIDE = 65_536  # of an input, in one dimension
MAX_ELEMENTS = 1 << 27  # of an input: 512 MiB in float32
MAX_CHANNELS = 1 << 20  # of one group
MAX_NAME = 1_000  # characters

Name = Annotated[str, Field(max_length=MAX_NAME)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Channel = Annotated[int, Field(ge=0, lt=MAX_CHANNELS)]


class Part(BaseModel):
    """Nothing is converted: true is no number, and 3.0 no count."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class KeptGroup(Part):
    """One prunable group.

    Attributes:
        size: channels of the dense network, at least 1.
        kept: those that stay, rising, in [0, size); at least one.
    """

    size: int = Field(ge=1, le=MAX_CHANNELS)
    kept: list[Channel] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> "KeptGroup":
        if any(a >= b for a, b in zip(self.kept, self.kept[1:], strict=False)):
            raise ValueError("kept must rise, each channel once")
        if self.kept[-1] >= self.size:
            raise ValueError(f"kept must lie below the size, {self.size}")
        return self


class TensorFacts(Part):
    """One tensor of the file of weights: its shape, its type as torch names it, its digest."""

    shape: list[Annotated[int, Field(ge=0)]]
    dtype: Name
    sha256: Digest


class Architecture(Part):
    """`architecture.json`, see `save`; entries that are not named here are passed over.

    Attributes:
        format: of this layout; whether it is read here is for the reader to say.
        model: name of the dense network, as `build_known` knows it, or any label.
        num_classes: its outputs, in [1, 100,000].
        input_shape: of a batch, each side in [1, 65536], at most 2^27 elements.
        groups: by name.
        tensors: by name.
        versions: of what wrote it.
        sha256: digest of each entry.
    """

    format: int = Field(ge=1)
    model: Name
    num_classes: int = Field(ge=1, le=MAX_CLASSES)
    input_shape: list[Annotated[int, Field(ge=1, le=MAX_SIDE)]] = Field(min_length=1, max_length=8)
    groups: dict[Name, KeptGroup]
    tensors: dict[Name, TensorFacts]
    versions: dict[Name, Name]
    sha256: dict[Name, Digest]

    @model_validator(mode="after")
    def _small_input(self) -> "Architecture":
        elements = 1
        for side in self.input_shape:
            elements *= side
        if elements > MAX_ELEMENTS:
            raise ValueError(f"input_shape has {elements} elements, allowed are {MAX_ELEMENTS}")
        return self


def check_architecture(found: Any, where: str) -> Architecture:
    """Check what was read from an `architecture.json`.

    Args:
        found: as `json.loads` returned it.
        where: the file, for the message.

    Raises:
        SurgeryError: an entry is missing, of another type or out of its limits; names it.
    """
    try:
        return Architecture.model_validate(found)
    except ValidationError as error:
        raise SurgeryError(
            f"{where}: entry {first_problem(error)}: the file is damaged or forged; save the "
            "network again"
        ) from None
