// OpenAI's client for Node against a server.
//
// node openai_client.mjs http://127.0.0.1:PORT

import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2].replace(/\/$/, "")}/v1`, apiKey: "none", maxRetries: 0 });
const isPng = (text) => Buffer.from(text, "base64").subarray(1, 4).toString() === "PNG";

const drawn = await client.images.generate({ model: "gpt-image-1", prompt: "two red cats", n: 2, seed: 7 });
assert.equal(drawn.data.length, 2);
assert.ok(drawn.data.every(({ b64_json }) => isPng(b64_json)));

const kinds = [];
for await (const event of await client.images.generate({ prompt: "a hat", stream: true, partial_images: 1 })) {
  kinds.push(event.type);
  assert.ok(isPng(event.b64_json));
}
assert.deepEqual(kinds, ["image_generation.partial_image", "image_generation.completed"]);

const image = await toFile(Buffer.from(drawn.data[0].b64_json, "base64"), "a.png", { type: "image/png" });
const edited = await client.images.edit({ image, prompt: "two red cats", box: "8,8,16,16" });
assert.ok(isPng(edited.data[0].b64_json));
const varied = await client.images.createVariation({ image, n: 2, response_format: "b64_json" });
assert.equal(varied.data.length, 2);

const embedded = await client.embeddings.create({ model: "impasto-clip", input: "a hat" });
assert.ok(embedded.data[0].embedding.length > 10);
const models = await client.models.list();
assert.ok(models.data.some(({ id }) => id === "impasto-mini"));

await assert.rejects(client.images.generate({ prompt: "a", size: "256x256" }), OpenAI.BadRequestError);
await assert.rejects(client.images.generate({ prompt: "a", model: "nothing" }), OpenAI.NotFoundError);
const moderated = await client.moderations.create({ input: ["a hat", "a nude man"] });
assert.deepEqual(moderated.results.map(({ flagged }) => flagged), [false, true]);
await assert.rejects(client.images.generate({ prompt: "a nude man" }), { status: 400, code: "moderation_blocked" });
console.log("openai for Node: passed");
