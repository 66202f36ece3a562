"""The stages, one for each command: a stage reads named inputs and writes one new output.

| verb | reads | writes |
|---|---|---|
| ingest | a folder of a known format | patches.zarr |
| augment | patches.zarr | balanced.zarr (split, rotated, balanced) |
| train_cls | balanced.zarr | cls/ (run folder) |
| train_seg | nuclei.zarr (patches with targets) | seg/ (run folder) |
| masks | balanced.zarr, seg/ | masks.zarr |
| predict | any patches, cls/ | preds.zarr |
| explain | balanced.zarr, cls/ | maps.zarr |
| score | maps.zarr, masks.zarr | scores.zarr |
| report | scores.zarr and, through its lineage, all before it | report/ |

`info` describes any of them. A stage is one public function. It takes paths and settings and returns a summary, the
dict that `--json` prints. It reports through `progress` and never prints. `base` has the skeleton of the stages that
work shard by shard.
"""
