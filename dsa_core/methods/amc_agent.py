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
from dsa_core.methods.settings.amc import AMCSettings
from dsa_core.training.seeds import step_seed

Numbers = np.ndarray[Any, np.dtype[np.float64]]
MEMORY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def truncated_normal(
    mean: Numbers, deviation: float, *, low: float, high: float, uniform: Numbers
) -> Numbers:
    """Draw from a normal distribution cut off outside [low, high], by the inverse of its CDF.

        x = mean + deviation Phi^-1( Phi(a) + u (Phi(b) - Phi(a)) ),
        a = (low - mean) / deviation,   b = (high - mean) / deviation

    Args:
        mean: in [low, high].
        deviation: > 0, before the cut.
        low, high: the ends.
        uniform: u in [0, 1), shape of the mean.
    """
    start, end = ndtr((low - mean) / deviation), ndtr((high - mean) / deviation)
    drawn = mean + deviation * ndtri(start + uniform * (end - start))
    return np.asarray(np.clip(drawn, low, high))


class Agent(DDPG):
    """DDPG as He et al. use it: two learning rates, truncated normal noise that decays by episode.

    Every draw is a function of (seed, decision), and what stable-baselines3 draws by itself (from
    the memory) of (seed, episode), see `Play`: no state of a random generator has to be saved.

    Args:
        env: the game.
        settings: of AMC.
        seed: of the networks' first weights and of all draws.
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
        self.set_logger(Logger(folder=None, output_formats=[]))  # else it leaves folders in /tmp

    def _update_learning_rate(self, optimizers: Any) -> None:
        """The actor learns at a rate of its own."""
        rates = (self.amc.actor_lr, self.amc.critic_lr)
        for optimiser, rate in zip(optimizers, rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[Any, Any]:
        """A uniform action in the random episodes, later the actor's with noise.

        Returns:
            The action, and the same in [-1, 1] for the memory; shape (1, 1) each.
        """
        space: Any = self.action_space
        low, high = float(space.low[0]), float(space.high[0])
        seed = step_seed(self.base_seed, "amc action", self.num_timesteps)
        uniform = np.random.default_rng(seed).random((n_envs, 1))
        if self.num_timesteps < learning_starts:
            action = low + (high - low) * uniform
        else:
            seen: Any = self._last_obs
            mean = self.predict(seen, deterministic=True)[0].clip(low, high)
            deviation = self.deviation()
            action = truncated_normal(mean, deviation, low=low, high=high, uniform=uniform)
        action = action.astype(np.float32)
        return action, self.policy.scale_action(action)

    def deviation(self) -> float:
        """Of the noise in the present episode."""
        learned = self._episode_num - self.amc.random_episodes
        return float(self.amc.noise * self.amc.noise_decay**learned)

    def saved(self) -> dict[str, Any]:
        """Networks, optimisers, memory and counters: tensors and numbers."""
        memory: Any = self.replay_buffer
        return {
            "policy": self.policy.state_dict(),
            "actor optimiser": self.actor.optimizer.state_dict(),
            "critic optimiser": self.critic.optimizer.state_dict(),
            "memory": {name: torch.from_numpy(getattr(memory, name).copy()) for name in MEMORY},
            "place": [memory.pos, int(memory.full)],
            "counters": [self.num_timesteps, self._episode_num, self._n_updates],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `saved` gave."""
        self.policy.load_state_dict(state["policy"])
        self.actor.optimizer.load_state_dict(state["actor optimiser"])
        self.critic.optimizer.load_state_dict(state["critic optimiser"])
        memory: Any = self.replay_buffer
        for name in MEMORY:
            setattr(memory, name, state["memory"][name].numpy().copy())
        memory.pos, memory.full = state["place"][0], bool(state["place"][1])
        self.num_timesteps, self._episode_num, self._n_updates = state["counters"]

    def play(self, episodes: int, before: Callable[[int], None], after: Callable[[], bool]) -> None:
        """Play and learn until so many episodes have been played in all.

        Args:
            episodes: in all, those before a restore included.
            before: called with the number of episodes done, before each.
            after: called after each; True ends the game.
        """
        left = episodes * self.decisions - self.num_timesteps
        if left > 0:
            self.learn(left, callback=Play(before, after), reset_num_timesteps=False)


class Play(BaseCallback):
    """Watches a game, episode by episode."""

    def __init__(self, before: Callable[[int], None], after: Callable[[], bool]) -> None:
        super().__init__()
        self.before, self.after = before, after

    def _on_rollout_start(self) -> None:
        agent: Any = self.model
        self.before(agent._episode_num)
        seed_all(step_seed(agent.base_seed, "amc episode", agent._episode_num))

    def _on_step(self) -> bool:
        return not (bool(self.locals["dones"][0]) and self.after())


def seed_all(seed: int) -> None:
    """Seed the three global generators that stable-baselines3 draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def own_random() -> Iterator[None]:
    """Leave the caller's global random numbers as they were."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
