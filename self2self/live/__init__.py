"""Live dropout for any PyTorch model: every random draw of a network becomes an input of its ONNX graph.

`export` captures a network and writes the file; it needs PyTorch. `model` loads the file and runs passes; it needs
neither PyTorch nor the network.
"""
