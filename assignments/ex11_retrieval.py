"""
Exercise 11: a number that a constant answer cannot earn.                   level 2, 40 minutes

Concept  a cosine says little by itself; a rank asks if an answer is about its own query
Read     MT 4.2; "How to read it" in RESULTS.md
Grade    pytest tests/test_evaluate.py --impl assignments.ex11_retrieval
Expect   chance R@10 among 1,000 with 12 right: 0.11421 +- 1e-05
Explain  A model has collapsed: whatever it is asked, it answers with one vector. What are its
         cosine, its centred cosine and its R@1, and which of them would tie-breaking change?
         And if the vector is 0?
Hint     For a query, write down the list of similarities. Which of its entries can lower the rank
         that you report, and which cannot? For chance: of how many lists of k are all k wrong?
"""

import math

import torch


def ranks(queries, gallery, positives):
    """Rank of each query's best right answer, (N,) integers, 1 is the first place.

    1 + the number of wrong items that are at least as similar as the most similar right one. So a
    tie with a wrong item counts against the query, and right items do not compete with each other.
    Similarity is the cosine; a row of zeros has cosine 0 with everything.
    queries (N, d), gallery (G, d), float32 tensors; positives[n]: the list of the gallery's rows
    that are right for query n. Raises ValueError where such a list is empty."""
    raise NotImplementedError


def recall_at_k(rank, k):
    """R@k: share of the queries whose rank is among the first k; rank (N,) from `ranks`."""
    raise NotImplementedError


def chance_recall(G, p, k):
    """R@k of a query whose gallery is shuffled: G items, of which p are right; a float.

    The probability that a right one is among the first k. 1 where k > G - p. Integers, 1 <= p, k
    <= G, and G may be 100,000."""
    raise NotImplementedError


def centred_cosine(z_hat, z, mean):
    """Mean over rows of the cosine of z_hat - mean and z - mean; z_hat, z (N, d), mean (d,).

    mean is that of the *training* targets, so the constant answer `mean` scores 0, not NaN."""
    raise NotImplementedError
