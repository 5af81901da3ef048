"""Data sets, batches and the small real data that tests and examples use; all of it works offline."""

from graphc.data.bundled import breast_cancer, digits, iris, wine
from graphc.data.collate import default_collate
from graphc.data.dataset import ArrayDataset, Dataset, TensorDataset
from graphc.data.loader import DataLoader
from graphc.data.progress import progress, say
from graphc.data.sampler import BatchSampler, RandomSampler

__all__ = [
    "ArrayDataset",
    "BatchSampler",
    "DataLoader",
    "Dataset",
    "RandomSampler",
    "TensorDataset",
    "breast_cancer",
    "default_collate",
    "digits",
    "iris",
    "progress",
    "say",
    "wine",
]
