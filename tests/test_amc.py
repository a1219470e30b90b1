"""AMC: the game is as stated, no decision passes the wall, the agent learns, and it resumes."""

import random
import tempfile
from dataclasses import replace
from functools import cache

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from problems_runs import (
    TASK,
    allocate,
    fresh,
    graph8,
    search_config,
    search_data,
    stop_after,
    trained,
)
from pydantic import ValidationError
from scipy.stats import kstest, truncnorm
from torch import Tensor, nn

from dsa_core.budget import Budget, Cost
from dsa_core.errors import BudgetError, ConfigError, TrainingError
from dsa_core.lab.data import Task
from dsa_core.masks import top_channels
from dsa_core.methods import SearchData, amc_reward
from dsa_core.methods.amc_agent import Agent, isolated_rngs, truncated_normal
from dsa_core.methods.amc_env import FEATURES, PruningEnv, Wall, layer_table
from dsa_core.methods.amc_reward import MaskedScore, held_out
from dsa_core.methods.config import AMCSettings
from dsa_core.ranking import importance
from dsa_core.surgery import prune
from dsa_core.training import FP32, Precision, evaluate

SHORT = AMCSettings(episodes=12, random_episodes=4, save_every=3, batch_size=8, hidden=16)


COST = Cost.of(graph8(), "macs")


def game(reward=lambda counts: 0.5, budget: Budget | None = None) -> PruningEnv:
    budget = budget or Budget(macs=0.5)
    return PruningEnv(trained(), graph8(), budget, reward, keep_least=0.2)


def score_of(
    settings: AMCSettings, model: nn.Module | None = None, data: SearchData | None = None
) -> MaskedScore:
    train = search_config().train
    return MaskedScore(model or trained(), graph8(), data or search_data(), settings, train)


def examples(most: int) -> list:
    return held_out(search_data(), most, torch.device("cpu"))


def played(env: PruningEnv, actions) -> tuple[list, list[float], list[bool]]:
    """Observations, rewards and ends of one episode."""
    seen, rewards, ends = [env.reset()[0]], [], []
    for action in actions:
        found, reward, over, cut, _ = env.step(np.array([action], dtype=np.float32))
        seen.append(found)
        rewards.append(reward)
        ends.append(over or cut)
    return seen, rewards, ends


def test_the_environment_is_one_of_gymnasium():
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gymnasium.logger, "warn", lambda text, *rest: said.append(text))
        check_env(game(), skip_render_check=True)
    # keep ratios are in [0.2, 1], as in the paper; the agent scales them by itself
    assert all("we recommend using a symmetric and normalized space" in text for text in said)


def test_an_episode_is_a_decision_for_each_group_and_the_reward_comes_last():
    rewarded: list[list[int]] = []

    def reward(counts: Tensor) -> float:
        rewarded.append(counts.tolist())
        return 0.7

    env = game(reward, Budget(macs=0.9))
    k = len(env.sizes)
    _, rewards, ends = played(env, [0.5] * k)
    assert rewards == [0.0] * (k - 1) + [0.7]
    assert ends == [False] * (k - 1) + [True]
    assert rewarded == [(env.sizes // 2).tolist()]  # no wall near: half of every group


def test_what_is_observed():
    """Static features from the network's definition, costs from counting it."""
    env = game(budget=Budget(macs=0.9))
    cost, form = COST, COST.relative
    seen, _, _ = played(env, [0.5] * len(env.sizes))
    assert np.stack(seen).shape[1] == len(FEATURES) == 11
    assert np.stack(seen).min() >= 0
    assert np.stack(seen).max() <= 1
    names = list(FEATURES)
    strides = [row[names.index("stride")] for row in seen[:-1]]
    graph, model = graph8(), fresh()
    expected = [model.get_submodule(g.members[0]).stride[0] / 2 for g in graph.prunable]
    assert strides == expected
    assert {0.5, 1.0} == set(expected)
    heights = [row[names.index("height")] for row in seen[:-1]]
    assert heights[0] == 1.0  # the image itself
    assert min(heights) <= 0.5
    half = cost.sizes.clone()
    for k, row in enumerate(seen[:-1]):
        gone = torch.ones(len(cost.sizes), dtype=torch.float64)
        gone[k] = 0
        saved = 1 - cost.at(half) / cost.dense
        assert row[names.index("cost")] == pytest.approx(1 - float(form(gone)), rel=1e-5)
        assert row[names.index("reduced")] == pytest.approx(saved, abs=1e-6)
        rest = half.double() / cost.sizes
        rest[k:] = 0
        left = cost.at(half) / cost.dense - float(form(rest))
        assert row[names.index("rest")] == pytest.approx(left, rel=1e-5)
        assert row[names.index("last action")] == (0.5 if k else 1.0)
        half[k] = cost.sizes[k] // 2


def test_the_table_is_of_the_first_layers():
    table = layer_table(trained(), graph8())
    assert table.shape == (len(graph8().prunable), 7)
    assert float(table.max()) == 1.0
    sizes = torch.tensor([g.size for g in graph8().prunable], dtype=torch.float64)
    torch.testing.assert_close(table[:, 1], sizes / sizes.max())
    assert float(table[0, 2]) == pytest.approx(1 / 64)  # one grey channel; the widest input is 64


@pytest.mark.parametrize(
    "budget",
    [
        Budget(macs=0.5),
        Budget(macs=0.25),
        Budget(params=0.3),
        Budget(macs=0.6, floors={"*": 0.5}),
        Budget(macs=0.4, divisor=4),
    ],
)
def test_no_sequence_of_actions_breaks_the_budget(budget):
    rng = np.random.default_rng(0)
    env = game(budget=budget)
    cost = env.wall.cost
    for actions in [[1.0] * len(env.sizes), *rng.uniform(0.2, 1, (20, len(env.sizes)))]:
        played(env, actions)
        assert cost.at(env.counts) <= budget.ratio * cost.dense
        assert bool((env.counts >= env.wall.least).all())
        whole = env.counts == env.sizes
        assert bool((whole | (env.counts % budget.divisor == 0)).all())


def test_the_wall_is_as_far_as_it_can_be():
    env = game()
    wall, cost, limit = env.wall, env.wall.cost, 0.5 * env.wall.cost.dense
    rng = np.random.default_rng(1)
    for _ in range(10):
        counts = cost.sizes.clone()
        for k in range(len(counts)):
            most = wall.most(k, counts)
            trial = torch.cat([counts[:k], wall.least[k:]])
            fitting = []
            for c in wall.allowed(k):
                trial[k] = c
                fitting += [c] if cost.at(trial) <= limit else []
            assert most == max(fitting)
            counts[k] = wall.count(k, float(rng.uniform(0.2, 1)), counts)


def test_without_a_wall_the_nearest_count_is_taken():
    wall = Wall.of(graph8(), Budget(macs=1.0), 0.2)
    sizes = wall.cost.sizes
    for action in (0.2, 0.33, 0.5, 0.77, 1.0):
        for k, size in enumerate(sizes.tolist()):
            count = wall.count(k, action, sizes)
            assert abs(count - action * size) <= 0.5 + 1e-6 or count == int(wall.least[k])


def test_a_budget_below_the_least_is_refused():
    with pytest.raises(BudgetError, match=r"cannot be reached by AMC: keeping keep_least=0\.2"):
        Wall.of(graph8(), Budget(macs=0.03), 0.2)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_score_is_that_of_the_network_cut_by_surgery(seed):
    model, graph, batches = trained(), graph8(), search_data().ratios
    score = score_of(AMCSettings(reward_examples=128), model)
    generator = torch.Generator().manual_seed(seed)
    counts = (COST.sizes * torch.rand(len(COST.sizes), generator=generator)).long() + 1
    found = score(counts)
    b = importance(model, graph, "l1")
    pruned = prune(model, graph, top_channels(b, counts, graph))
    measured = evaluate(pruned, batches, TASK)
    assert found.score == pytest.approx(measured.score, abs=1e-9)
    assert found.loss == pytest.approx(measured.loss, rel=1e-4)
    assert score.dense.score == pytest.approx(evaluate(model, batches, TASK).score)


def test_as_many_examples_as_asked():
    assert sum(len(x) for x, _ in examples(100)) == 100
    assert sum(len(x) for x, _ in examples(5000)) == 128  # all there are


def test_a_score_with_a_unit_is_compared_with_the_dense_one():
    decibel = Task("t", TASK.loss, lambda outputs, y: len(y) * torch.tensor(30.0), "s", unit="dB")
    score = score_of(AMCSettings(), data=replace(search_data(), task=decibel))
    assert score.dense.score == pytest.approx(30.0)
    assert score.reward(score(COST.sizes)) == pytest.approx(1.0)


def test_weights_that_are_not_finite_are_told():
    def score(outputs: Tensor, y: Tensor) -> Tensor:
        return outputs.sum() * torch.nan

    data = replace(search_data(), task=Task("t", TASK.loss, score, "accuracy"))
    with pytest.raises(TrainingError, match="the accuracy of the masked network is not a number"):
        score_of(AMCSettings(), data=data)


@pytest.mark.parametrize("deviation", [0.5, 0.05, 1e-4])
@pytest.mark.parametrize("mean", [0.2, 0.5, 1.0])
def test_truncated_normal_has_the_distribution_it_names(mean, deviation):
    u = np.linspace(0, 0.999, 50)[:, None]
    drawn = truncated_normal(np.full_like(u, mean), deviation, low=0.2, high=1.0, uniform=u)
    assert drawn.min() >= 0.2
    assert drawn.max() <= 1.0
    ends = (0.2 - mean) / deviation, (1.0 - mean) / deviation
    expected = truncnorm.ppf(u, *ends, loc=mean, scale=deviation)
    np.testing.assert_allclose(drawn, expected, atol=1e-6)


def toy(best: float, kept: list[float] | None = None) -> PruningEnv:
    """A game whose best first decision is known; the others do not matter."""
    sizes = COST.sizes

    def reward(counts: Tensor) -> float:
        share = float(counts[0] / sizes[0])
        if kept is not None:
            kept.append(share)
        return 1 - 4 * (share - best) ** 2

    return game(reward, Budget(macs=1.0))


def test_the_agent_learns_what_pays():
    """Of shares uniform on [0.2, 1] the mean is 0.6; the best one is 0.3."""
    kept: list[float] = []
    settings = AMCSettings(episodes=170, random_episodes=50, hidden=64, actor_lr=1e-3)
    with isolated_rngs():
        agent = Agent(toy(0.3, kept), settings, seed=0)
        agent.play(170, lambda done: None, lambda: False)
    assert abs(np.mean(kept[:50]) - 0.6) < 0.1
    assert abs(np.mean(kept[-20:]) - 0.3) < 0.1


def test_an_agent_leaves_no_folder_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = toy(best=0.25)
    agent = Agent(env, AMCSettings(episodes=2, random_episodes=1), seed=0)
    agent.play(2, before=lambda episode: None, after=lambda: False)
    assert list(tmp_path.iterdir()) == []


def test_two_learning_rates_and_noise_that_decays():
    with isolated_rngs():
        agent = Agent(toy(0.5), SHORT, seed=0)
        agent.play(8, lambda done: None, lambda: False)
    rates = [o.param_groups[0]["lr"] for o in (agent.actor.optimizer, agent.critic.optimizer)]
    assert rates == [1e-4, 1e-3]
    assert (agent.tau, agent.gamma) == (0.01, 1.0)
    assert agent.deviation() == pytest.approx(0.5 * 0.95**4)
    decisions = agent.decisions
    assert agent.num_timesteps == 8 * decisions
    steps = {int(s["step"]) for s in agent.actor.optimizer.state.values()}
    assert steps == {4 * decisions}  # one for each decision, after the random episodes


def test_noise_is_around_the_actor_s_action_and_its_draws_are_functions_of_the_decision():
    with isolated_rngs():
        agent = Agent(toy(0.5), SHORT, seed=0)
        agent.play(4, lambda done: None, lambda: False)  # the random episodes
    observation = np.zeros((1, len(FEATURES)), dtype=np.float32)
    mean = agent.predict(observation, deterministic=True)[0]
    assert np.array_equal(mean, agent.predict(observation, deterministic=True)[0])
    drawn = []
    for t in range(agent.num_timesteps, agent.num_timesteps + 2000):
        agent.num_timesteps = t
        agent.amc = SHORT.model_copy(update={"noise": 0.1, "noise_decay": 1.0})
        drawn.append(float(agent.predict(observation)[0][0, 0]))
        assert float(agent.predict(observation)[0][0, 0]) == drawn[-1]
    ends = (np.array([0.2, 1.0]) - mean[0, 0]) / 0.1
    wanted = truncnorm(*ends, loc=mean[0, 0], scale=0.1)
    assert kstest(drawn, wanted.cdf).pvalue > 0.01


def test_the_first_episodes_are_uniform():
    seen: list[float] = []
    env = game()
    step = env.step
    env.step = lambda action: (seen.append(float(action[0])), step(action))[1]  # type: ignore[assignment]
    with isolated_rngs():
        agent = Agent(env, AMCSettings(episodes=60, random_episodes=60), seed=0)
        agent.play(60, lambda done: None, lambda: False)
    quantiles = (np.sort(seen) - 0.2) / 0.8
    distance = np.abs(quantiles - (np.arange(len(seen)) + 0.5) / len(seen)).max()
    assert distance < 1.36 / len(seen) ** 0.5  # Kolmogorov and Smirnov, 5 %


@cache
def searched():
    model = trained()
    return model, allocate("amc", model, config=search_config(amc=SHORT))


def test_the_best_episode_is_taken_and_the_weights_stay():
    model, found = searched()
    torch.testing.assert_close(model.state_dict(), trained().state_dict(), rtol=0, atol=0)
    assert found.met
    assert len(found.updates) == found.notes["amc_episodes"] == 12
    assert all(u.cost <= 0.5 + 1e-9 for u in found.updates)
    assert all(0 < u.figures["loss"] < 100 for u in found.updates)
    assert found.trials == 1
    assert found.epochs == ()
    assert found.seconds > 0
    best = found.updates[found.notes["amc_best_episode"] - 1].keep_ratios
    assert tuple(found.keep_ratios.tolist()) == best
    sizes = graph8().sizes
    assert bool(
        (found.counts >= (found.keep_ratios * sizes).round().long()).all()
    )  # slack is spent
    score = score_of(SHORT)
    reward = score((found.keep_ratios * sizes).round().long()).score
    assert found.notes["amc_best_reward"] == pytest.approx(reward)


def test_interrupted_and_resumed_is_identical(tmp_path):
    path, config = tmp_path / "search.pt", search_config(amc=SHORT)
    whole = searched()[1]
    for n, saved in ((2, 0), (5, 3), (6, 6)):
        word = rf"{saved} of 12 episodes are saved: the same call resumes from .*search\.pt"
        with pytest.raises(KeyboardInterrupt, match=word):
            allocate("amc", trained(), config=config, checkpoint=path, on_step=stop_after(n))
    resumed = allocate("amc", trained(), config=config, checkpoint=path)
    assert [repr(u) for u in resumed.updates] == [repr(u) for u in whole.updates]
    assert torch.equal(resumed.counts, whole.counts)
    assert resumed.notes == whole.notes
    again = allocate("amc", trained(), config=config, checkpoint=path)  # nothing left to do
    assert [repr(u) for u in again.updates] == [repr(u) for u in whole.updates]
    with pytest.raises(TrainingError, match="different run"):
        allocate("amc", trained(), Budget(macs=0.4), config, checkpoint=path)


def test_a_resumed_search_keeps_its_number_format(monkeypatch, tmp_path):
    config = search_config(amc=SHORT, precision="auto", channels_last="auto")
    path, bf16 = tmp_path / "search.pt", Precision("bf16", channels_last=True)
    monkeypatch.setattr(amc_reward, "choose_precision", lambda *_, **__: bf16)
    whole = allocate("amc", trained(), config=config)
    with pytest.raises(KeyboardInterrupt):
        allocate("amc", trained(), config=config, checkpoint=path, on_step=stop_after(5))
    monkeypatch.setattr(amc_reward, "choose_precision", lambda *_, **__: FP32)
    resumed = allocate("amc", trained(), config=config, checkpoint=path)
    assert resumed.notes == whole.notes
    assert [repr(u) for u in resumed.updates] == [repr(u) for u in whole.updates]
    other = allocate("amc", trained(), config=config)  # the format does matter
    assert [u.figures for u in other.updates] != [u.figures for u in whole.updates]


def test_stopped_and_interrupted_without_a_checkpoint():
    config = search_config(amc=SHORT)
    found = allocate("amc", trained(), config=config, on_step=lambda update: update.step == 4)
    assert len(found.updates) == 5
    assert found.notes["stopped"] is True
    assert found.met
    with pytest.raises(KeyboardInterrupt, match="after 2 episodes; without a checkpoint"):
        allocate("amc", trained(), config=config, on_step=stop_after(2))


def test_the_seed_decides_and_the_caller_s_random_numbers_stay():
    trained()  # trains when it is first asked for
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    config = search_config(amc=SHORT)
    runs = [allocate("amc", trained(), config=config, seed=seed) for seed in (0, 1)]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert [repr(u) for u in runs[0].updates] == [repr(u) for u in searched()[1].updates]
    assert runs[0].updates[0].keep_ratios != runs[1].updates[0].keep_ratios


def test_random_weights_are_refused():
    with pytest.raises(ConfigError, match=r"amc starts from a trained network.*warmup_epochs=2"):
        allocate("amc", fresh(), config=search_config(warmup_epochs=2))


def test_the_settings_know_their_names():
    with pytest.raises(ValidationError, match="random_episodes=5 is more than episodes=4"):
        AMCSettings(episodes=4, random_episodes=5)
    with pytest.raises(ValidationError, match="episode"):
        AMCSettings(episode=4)
    assert (AMCSettings().episodes, AMCSettings().random_episodes) == (400, 100)
