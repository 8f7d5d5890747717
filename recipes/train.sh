#!/usr/bin/env bash
# Trains the text tokenizer, the image tokenizer and the transformer of a recipe, one after the other (the tokenizers where
# the recipe has them), then what else the recipe has: the transformer once more (refine.json), a CLIP (clip.json), the CLIP once more, with pictures
# that the transformer draws (refine-clip.json). Goes on where a run was stopped: recipes/train.sh NAME [--device DEVICE]
set -eu
cd "$(dirname "$0")/.."
recipe=$1
shift
impasto() { cargo run --release --quiet -- "$@"; }
if [ -e "recipes/$recipe/text-tokenizer.json" ] && [ ! -e "out/$recipe/text-tokenizer/tokenizer.json" ]; then
  impasto train text-tokenizer --config "recipes/$recipe/text-tokenizer.json" --out "out/$recipe/text-tokenizer"
fi
if [ -e "recipes/$recipe/image-tokenizer.json" ]; then
  impasto train image-tokenizer --config "recipes/$recipe/image-tokenizer.json" --out "out/$recipe/image-tokenizer" --resume "$@"
fi
impasto train dalle --config "recipes/$recipe/dalle.json" --out "out/$recipe/dalle" --resume "$@"
model=dalle
if [ -e "recipes/$recipe/refine.json" ]; then
  impasto train dalle --config "recipes/$recipe/refine.json" --out "out/$recipe/refined" --resume "$@"
  model=refined
fi
if [ -e "recipes/$recipe/clip.json" ]; then
  impasto train clip --config "recipes/$recipe/clip.json" --out "out/$recipe/clip" --resume "$@"
fi
if [ -e "recipes/$recipe/refine-clip.json" ]; then
  impasto train clip --config "recipes/$recipe/refine-clip.json" --out "out/$recipe/refined-clip" --resume "$@"
fi
echo "the model is in out/$recipe/$model/model"
