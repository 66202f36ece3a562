"""The stages: one verb each, named inputs read, one new output written, inputs never modified.

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

`info` describes any of them. A stage is one public function: settings and paths in, a summary (a dict
that `--json` prints) out; it says what it does through `progress` and never prints.
"""
