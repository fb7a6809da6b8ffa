"""Training data as batches addressed by step: resumable at any step, and sharded over systems without a seam.

    dataset or loader  ->  BatchSource  ->  .shard(system, systems)  ->  Prefetcher  ->  (step, batch)

Sources: `from_dataset` (anything that can be indexed), `from_loader` (the user's own DataLoader).
Data sets: `ByteText`, `python_stdlib`, `TokenFile`, `TokenHdf5`, `digits`, `mnist_files`, and `MaskedTokens`
around one of token sequences.
"""

from openwafer.train.data._batch import Batch, Structure, rows, slice_rows, split_rows, structure, to_batch
from openwafer.train.data._hdf5 import TokenHdf5
from openwafer.train.data._images import Images, digits, mnist_files
from openwafer.train.data._loader import from_loader
from openwafer.train.data._mapped import Collate, MapDataset, from_dataset
from openwafer.train.data._masked import MaskedTokens
from openwafer.train.data._prefetch import Prefetcher
from openwafer.train.data._source import BatchSource
from openwafer.train.data._text import ByteText, python_stdlib
from openwafer.train.data._tokens import TokenFile

__all__ = [
    "Batch",
    "BatchSource",
    "ByteText",
    "Collate",
    "Images",
    "MapDataset",
    "MaskedTokens",
    "Prefetcher",
    "Structure",
    "TokenFile",
    "TokenHdf5",
    "digits",
    "from_dataset",
    "from_loader",
    "mnist_files",
    "python_stdlib",
    "rows",
    "slice_rows",
    "split_rows",
    "structure",
    "to_batch",
]
