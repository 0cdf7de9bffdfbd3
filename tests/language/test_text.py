"""Characters and n-grams: against counts by hand, against a known source, refusals."""

import math

import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError
from manifold_diffusion.data import CharacterCodec, load_python_manual
from manifold_diffusion.metrics import NGramModel, distinct, unigram_entropy


def by_hand(text, history, word, k):
    """Witten and Bell by dictionaries and recursion."""

    def p(context):
        shorter = p(context[1:]) if context else 1 / k
        n = len(context)
        follow = [row[i + n] for row in text for i in range(len(row) - n) if tuple(row[i : i + n]) == tuple(context)]
        if not follow:
            return shorter
        kinds = len(set(follow))
        return (follow.count(word) + kinds * shorter) / (len(follow) + kinds)

    return p(history)


def test_probabilities_are_those_of_counting_by_hand():
    text = torch.randint(4, (6, 9), generator=torch.Generator().manual_seed(0))
    model = NGramModel(5, order=3).fit(text)
    queries = torch.randint(5, (4, 7), generator=torch.Generator().manual_seed(1))
    p = model.log_prob(queries).exp()
    for row, values in zip(queries.tolist(), p.tolist(), strict=True):
        for i, value in enumerate(values):
            assert value == pytest.approx(by_hand(text.tolist(), row[max(0, i - 2) : i], row[i], 5), rel=1e-12)


def test_probabilities_of_the_next_token_sum_to_one():
    model = NGramModel(5, order=4).fit(torch.randint(4, (6, 9), generator=torch.Generator().manual_seed(0)))
    start = torch.tensor([[0, 3, 2], [4, 4, 4], [1, 2, 4]])
    total = sum(model.log_prob(torch.cat([start, torch.full((3, 1), w)], 1))[:, -1].exp() for w in range(5))
    assert (total - 1).abs().max() < 1e-12


def test_perplexity_of_a_known_source():
    """A Markov chain that stays with probability 0.8 has the entropy rate of a biased coin."""

    def chain(n, seed):
        moves = torch.rand(n, 40, generator=torch.Generator().manual_seed(seed)) < 0.2
        return moves.long().cumsum(1) % 2

    truth = math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    model = NGramModel(2, order=3).fit(chain(3000, 0))
    later = torch.exp(-model.log_prob(chain(1000, 1))[:, 1:].mean())
    assert later == pytest.approx(truth, rel=0.01)
    shuffled = torch.randint(2, (1000, 40), generator=torch.Generator().manual_seed(2))
    assert model.perplexity(shuffled).value > 1.2 * truth  # negative control


def test_entropy_and_diversity():
    tokens = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]])
    assert unigram_entropy(tokens, 4).value == pytest.approx(math.log(4) / 2)
    assert distinct(tokens, 2) == 4 / 6
    assert distinct(tokens, 4) == 1


def test_codec():
    codec = CharacterCodec(" ab.")
    assert codec.decode(codec.encode("A\n\nb,.  ")) == "a b . "
    assert codec.n_tokens == 4 and len(codec.encode("")) == 0
    assert codec.windows("abab ba", 3, stride=2).tolist() == [[1, 2, 1], [1, 2, 0], [0, 2, 1]]
    assert "statement" in load_python_manual() and len(load_python_manual()) > 1e5


def test_refusals():
    with pytest.raises(ConfigError, match="order"):
        NGramModel(1000, order=9)
    with pytest.raises(ConfigError, match="fit"):
        NGramModel(3).log_prob(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"\[0, 3\), got 0 to 3"):
        NGramModel(3).fit(torch.tensor([[0, 3]]))
    with pytest.raises(DataError, match="integers"):
        unigram_entropy(torch.zeros(2, 2), 3)
    with pytest.raises(ConfigError, match="length of the sequences"):
        distinct(torch.zeros(2, 2, dtype=torch.int64), 3)
    with pytest.raises(ConfigError, match="space"):
        CharacterCodec("abc")
    with pytest.raises(DataError, match="too few"):
        CharacterCodec().windows("abc", 4)
