"""Notebook 02: every check passes its answer and refuses what is usually got wrong."""

from course.exercises import n02
from graders import graded


def first_match_only(n, pairs):
    """Looks one step far: a - b - c leaves c with b."""
    label = list(range(n))
    for i, j in pairs:
        label[max(i, j)] = min(i, j)
    return label


def moves_one_id(n, pairs):
    """Gives a new label to the id, not to its whole class."""
    label = list(range(n))
    for i, j in pairs:
        label[i] = label[j] = min(label[i], label[j])
    return label


def with_loops(n, pairs):
    """Right in another way: walk to the root."""
    parent = list(range(n))

    def root(i):
        return i if parent[i] == i else root(parent[i])

    for i, j in pairs:
        parent[max(root(i), root(j))] = min(root(i), root(j))
    return [root(i) for i in range(n)]


ALSO_RIGHT = [
    (n02.check_united, with_loops),
]
WRONG = {
    n02.check_united: [
        first_match_only,
        moves_one_id,
        lambda n, pairs: list(range(n)),
    ],
    n02.check_kept_after_concat: [
        lambda sizes, kept: [c for part in kept for c in part],
        # offsets from what is left, not from what was there
        lambda sizes, kept: [
            sum(map(len, kept[:i])) + c for i, part in enumerate(kept) for c in part
        ],
    ],
}

test_answers_pass, test_typical_slips_do_not = graded(n02, WRONG, ALSO_RIGHT)
