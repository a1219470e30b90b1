"""AMC's agent: DDPG by stable-baselines3, with the paper's exploration, resumed exactly."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from stable_baselines3 import DDPG
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from dsa_core.methods.amc_env import PruningEnv
from dsa_core.methods.config import AMCSettings
from dsa_core.training.seeds import step_seed

Numbers = np.ndarray[Any, np.dtype[np.float64]]
MEMORY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def truncated_normal(
    mean: Numbers, deviation: float, *, low: float, high: float, uniform: Numbers
) -> Numbers:
    """Draw from a normal distribution cut off outside [low, high], by the inverse of its CDF.

        x = mean + deviation Phi^-1( Phi(a) + u (Phi(b) - Phi(a)) ),
        a = (low - mean) / deviation,   b = (high - mean) / deviation

    The mean lies in [low, high], u = `uniform` in [0, 1), in the shape of the mean.
    """
    start, end = ndtr((low - mean) / deviation), ndtr((high - mean) / deviation)
    drawn = mean + deviation * ndtri(start + uniform * (end - start))
    return np.asarray(np.clip(drawn, low, high))


class Agent(DDPG):
    """DDPG as He et al. use it: two learning rates, truncated normal noise that decays by episode.

    Every draw is a function of (seed, decision); what stable-baselines3 draws itself (from the
    replay memory) is one of (seed, episode), see `Play`. So no generator state has to be saved.
    """

    def __init__(self, env: PruningEnv, settings: AMCSettings, seed: int) -> None:
        self.amc, self.base_seed, self.decisions = settings, seed, len(env.sizes)
        super().__init__(
            "MlpPolicy",
            env,
            learning_rate=settings.critic_lr,
            buffer_size=settings.memory_episodes * self.decisions,
            learning_starts=settings.random_episodes * self.decisions,
            batch_size=settings.batch_size,
            tau=settings.tau,
            gamma=1.0,
            train_freq=(1, "episode"),
            gradient_steps=-1,  # one for each decision of the episode
            policy_kwargs={"net_arch": [settings.hidden, settings.hidden]},
            device="cpu",
            seed=step_seed(seed, "amc agent") % 2**32,
        )
        self.actor.optimizer.register_step_pre_hook(self._actor_lr)
        self.set_logger(Logger(folder=None, output_formats=[]))  # else it writes to /tmp

    def _actor_lr(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Give the actor its own learning rate."""
        for group in optimizer.param_groups:
            group["lr"] = self.amc.actor_lr

    @property
    def episode(self) -> int:
        """Episodes played."""
        return self.num_timesteps // self.decisions

    @property
    def decision_seed(self) -> int:
        """Seed of the next decision."""
        return step_seed(self.base_seed, "amc action", self.num_timesteps)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """The actor's action; unless `deterministic`, with the noise of the current episode."""
        mean, state = super().predict(observation, state, episode_start, deterministic=True)
        if deterministic:
            return mean, state
        space: Any = self.action_space
        low, high = float(space.low[0]), float(space.high[0])
        uniform = np.random.default_rng(self.decision_seed).random(mean.shape)
        learned = self.episode - self.amc.random_episodes
        deviation = float(self.amc.noise * self.amc.noise_decay**learned)
        mean = mean.clip(low, high)
        action = truncated_normal(mean, deviation, low=low, high=high, uniform=uniform)
        return action.astype(np.float32), state

    def saved(self) -> dict[str, Any]:
        """Networks, optimizers, memory and counter: tensors and numbers."""
        memory: Any = self.replay_buffer
        return {
            "networks": self.get_parameters(),
            "memory": {name: torch.from_numpy(getattr(memory, name).copy()) for name in MEMORY},
            "place": [memory.pos, int(memory.full)],
            "decisions": self.num_timesteps,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `saved` returned."""
        self.set_parameters(dict(state["networks"]))
        memory: Any = self.replay_buffer
        for name in MEMORY:
            setattr(memory, name, state["memory"][name].numpy().copy())
        memory.pos, memory.full = state["place"][0], bool(state["place"][1])
        self.num_timesteps = state["decisions"]

    def play(self, episodes: int, before: Callable[[int], None], after: Callable[[], bool]) -> None:
        """Play and learn until `episodes` are done in all, those before a restore included.

        Args:
            before: called before each episode with the number of episodes done.
            after: called after each episode; True stops.
        """
        left = episodes * self.decisions - self.num_timesteps
        if left > 0:
            self.learn(left, callback=Play(before, after), reset_num_timesteps=False)


class Play(BaseCallback):
    """Calls back before and after each episode, and seeds the random draws in it."""

    def __init__(self, before: Callable[[int], None], after: Callable[[], bool]) -> None:
        super().__init__()
        self.before, self.after = before, after

    def _on_rollout_start(self) -> None:
        agent: Any = self.model
        self.before(agent.episode)
        # stable-baselines3 draws from the three global generators
        seed = step_seed(agent.base_seed, "amc episode", agent.episode)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        agent.action_space.seed(agent.decision_seed)

    def _on_step(self) -> bool:
        agent: Any = self.model
        agent.action_space.seed(agent.decision_seed)
        return not (bool(self.locals["dones"][0]) and self.after())


@contextmanager
def isolated_rngs() -> Iterator[None]:
    """Leave the caller's global random numbers as they were."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
