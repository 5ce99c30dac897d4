"""Makes the random nodes of an ONNX file of another program inputs, as `export_live` does for a PyTorch model.

The file is data from somewhere: its size is limited, it may refer to no other file, and no operator runs that ONNX does
not define. The random nodes are found by their types:

- ``Dropout`` that is switched on (``training_mode``; ``is_test`` before opset 7), or any if the user wants all of them;
- ``Bernoulli``;
- ``RandomUniform``, ``RandomNormal``, ``RandomUniformLike`` and ``RandomNormalLike``.

Shapes are measured: the graph runs with neutral values in place of the draws at some lengths of its free axes, and
`measured_sizes` finds the expressions. Before the file is written, ONNX Runtime draws for the original graph, and the
new one has to compute the same from what was drawn.
"""
