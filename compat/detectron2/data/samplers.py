"""Which indices each process evaluates."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from detectron2.utils import comm


class InferenceSampler(Sampler):
    """Every index exactly once over all processes: consecutive shares, the first ones longer by one where needed.

    Args:
        size: number of elements, at least 1.
    """

    def __init__(self, size: int) -> None:
        assert size > 0, f"a data set of {size} elements cannot be sampled"
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        """The share of process `rank`."""
        share, longer = divmod(total_size, world_size)
        begin = rank * share + min(rank, longer)
        return range(begin, begin + share + (rank < longer))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
