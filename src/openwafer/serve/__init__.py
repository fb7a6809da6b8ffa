"""Inference: checkpoints of the Llama family behind the API that existing clients speak.

`api` answers HTTP and knows no tensor; `engine` decides what runs next and which token comes out; `executors` run batches,
resident, pipelined or with streamed weights; `model` is what a layer computes, on `kernels`; `text` turns messages into
tokens and tokens into text. Imports go in that order, `text` beside the others.
"""
