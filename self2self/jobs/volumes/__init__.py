"""`self2self denoise` for volumes: one fit, one range of values and one look at the noise; then block by block.

- `layout`: which axis is what. `blocks`: how a volume is cut; the data decide that, not the machine.
- `plan`: what is decided once, before the first block. `block_work`: one block, on any machine.
- `progress`: which blocks are done, on disk. `volume_job`: all of it. `result`: what is to be said of it.
"""
