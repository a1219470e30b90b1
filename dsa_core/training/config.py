"""The settings of a training."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

ScheduleName = Literal["one_cycle", "multi_step", "cosine", "constant"]
PrecisionName = Literal["auto", "fp32", "bf16"]
OptimizerName = Literal["sgd", "adamw"]
LATER = {"ema": None, "compile": False, "optimizer": "sgd"}  # written only where they differ


class TrainConfig(BaseModel):
    """How to train; frozen, and an unknown name is an error.

    Attributes:
        epochs: passes over the training batches; 0 leaves the network as it is.
        batch_size: examples in a batch; read by the code that makes the batches.
        lr: learning rate at its highest; 0 freezes the weights.
        optimizer: "sgd", or "adamw", which transformers need.
        momentum: of SGD; of AdamW, the decay of its mean gradient (beta_1).
        nesterov: Nesterov's form of SGD's momentum.
        weight_decay: L2 coefficient; of AdamW, its decay of the weights themselves.
        decay_norm: whether vectors (BatchNorm's scale and shift, biases) decay as well; DSA's plain
            SGD does.
        schedule: see `lr_at`.
        milestones: multi_step: epochs after which the rate is multiplied by `gamma`.
        gamma: multi_step: factor at each milestone.
        warmup: one_cycle: share of all steps during which the rate rises.
        precision: "fp32", "bf16" (autocast), or "auto" = measure and take the faster. It is fixed
            by default: where the two are close, what is measured depends on the moment, and equal
            runs would differ in their number format.
        channels_last: memory order of images, or "auto" = measure and take the faster; fixed
            by default, as above.
        label_smoothing: amount, for tasks that know it; the reported loss is never smoothed.
        clip_norm: largest norm of the whole gradient; None = not clipped.
        ema: decay, at each step, of a moving average of the weights, which takes their place at the
            end (see `WeightAverage`); None = the weights of the last step.
        compile: run the network by `torch.compile`, which is paid for in the first step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(ge=0)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=0.1, ge=0)
    optimizer: OptimizerName = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    decay_norm: bool = True
    schedule: ScheduleName = "one_cycle"
    milestones: tuple[int, ...] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    warmup: float = Field(default=0.2, ge=0, lt=1)
    precision: PrecisionName = "fp32"
    channels_last: bool | Literal["auto"] = False
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    compile: bool = False

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is not set: it changes no hash and no old checkpoint."""
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if value != LATER.get(name, ...)}
