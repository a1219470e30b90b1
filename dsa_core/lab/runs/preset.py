"""How a whole run trains, and what it cuts."""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from dsa_core.methods import SearchConfig
from dsa_core.scheme import SearchImportance
from dsa_core.training import TrainConfig


class Cut(BaseModel):
    """What is cut, and how.

    Attributes:
        weights: the "searched" ones, or the "dense" ones.
        rank: importance that ranks the channels of a group by these weights, see
            `ranking.importance`; None for the ranking of the search.
        reconstruct: number of training images used to refit the weights after the cut, see
            `surgery.reconstruct`; 0: only renew BatchNorm's statistics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Literal["searched", "dense"] = "searched"
    rank: SearchImportance | None = None
    reconstruct: int = Field(default=0, ge=0)


class Preset(BaseModel):
    """How a whole run trains.

    Attributes:
        model, dataset: used when none is named.
        dense: training of the dense network; None starts the search from random weights.
        search: see `SearchConfig`.
        fine_tune: training of the pruned network, on the whole training set.
        weights_fraction: share of the training set that trains weights during the search; the rest
            is held out, for estimators that use it and for the loss under the final mask. At 1 the
            weights train on all of it, and that loss is a training loss.
        dense_split: train the dense network on the weights' part alone too: held-out scores, such
            as AMC's reward, are then of images that it has not seen.
        norm_batches: training batches that recalibrate BatchNorm after the cut.
        cut: what is cut, and how.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    dataset: str
    dense: TrainConfig | None
    search: SearchConfig
    fine_tune: TrainConfig
    weights_fraction: float = Field(default=0.9, gt=0, le=1)
    dense_split: bool = False
    norm_batches: int = Field(default=50, ge=1)
    cut: Cut = Cut()

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was added later and is not set, so that old hashes do not change."""
        fields: dict[str, Any] = handler(self)
        unset = {"cut": Cut().model_dump(), "dense_split": False}
        return {k: v for k, v in fields.items() if k not in unset or v != unset[k]}
