"""Settings of AMC."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dsa_core.ranking import Importance


class AMCSettings(BaseModel):
    """Settings of AMC; the defaults are the paper's where it gives one.

    Attributes:
        episodes: allocations tried (400 in the paper, 800 for its hardest networks).
        random_episodes: how many of them, at the start, take random actions; the agent learns
            after those.
        keep_least: smallest keep ratio allowed (0.2).
        reward_examples: largest number of held-out examples a reward is measured on (5000).
        importance: what ranks the channels of a group; AMC removes the smallest weights, "l1".
        noise, noise_decay: standard deviation of the truncated normal noise on an action in the
            first episode after the random ones, and its factor per further episode (0.5, 0.95).
        hidden: width of the two hidden layers of actor and critic (300).
        actor_lr, critic_lr: of Adam (1e-4, 1e-3).
        tau: of the target networks' moving average (0.01).
        batch_size: transitions in a learning step (64); there is one step per decision.
        memory_episodes: episodes that the replay memory holds (100, in the authors' code).
        save_every: episodes between two checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    episodes: int = Field(default=400, ge=1)
    random_episodes: int = Field(default=100, ge=0)
    keep_least: float = Field(default=0.2, gt=0, lt=1)
    reward_examples: int = Field(default=5000, ge=1)
    importance: Importance = "l1"
    noise: float = Field(default=0.5, gt=0)
    noise_decay: float = Field(default=0.95, gt=0, le=1)
    hidden: int = Field(default=300, ge=1)
    actor_lr: float = Field(default=1e-4, gt=0)
    critic_lr: float = Field(default=1e-3, gt=0)
    tau: float = Field(default=0.01, gt=0, le=1)
    batch_size: int = Field(default=64, ge=1)
    memory_episodes: int = Field(default=100, ge=1)
    save_every: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "AMCSettings":
        if self.random_episodes > self.episodes:
            raise ValueError(
                f"random_episodes={self.random_episodes} is more than episodes={self.episodes}: "
                "the first of all episodes are random"
            )
        return self
