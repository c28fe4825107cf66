// The contract that all clients share; LLMEMB_TEST_URL and LLMEMB_TEST_SCRIPTED say where to ask.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as llmemb from "../dist/index.js";

const scenarios = JSON.parse(readFileSync(new URL("../../contract.json", import.meta.url), "utf8"));
const { LLMEMB_TEST_URL: service, LLMEMB_TEST_SCRIPTED: scripted } = process.env;

const camelCase = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());

// Of an object, only what is expected of it counts.
function check(found, expected) {
  if (Array.isArray(expected)) {
    assert.equal(found.length, expected.length);
    expected.forEach((one, i) => check(found[i], one));
  } else if (expected === null || typeof expected !== "object") {
    assert.equal(found, expected);
  } else if ("$length" in expected) {
    assert.equal(found.length, expected.$length);
  } else if ("$floats" in expected) {
    assert.ok(found instanceof Float32Array);
    assert.equal(found.length, expected.$floats);
  } else {
    for (const [name, value] of Object.entries(expected)) check(found[name], value);
  }
}

async function call(client, step) {
  const given = Object.entries(step.with).map(([name, value]) => [camelCase(name), value]);
  const answer = client[camelCase(step.call)](Object.fromEntries(given));
  if (step.call !== "items") return answer;
  const items = [];
  for await (const item of answer) items.push(item);
  return items;
}

async function play(client, step) {
  if (!step.raises) {
    check(await call(client, step), step.gives ?? undefined);
    return;
  }
  const { error, status, field } = step.raises;
  await assert.rejects(call(client, step), (thrown) => {
    assert.ok(thrown instanceof llmemb[error], `${thrown}`);
    if (status) assert.equal(thrown.status, status);
    if (field) assert.equal(thrown.errors[0].field, field);
    return true;
  });
}

for (const scenario of scenarios) {
  test(scenario.promise, async () => {
    const options = { key: scenario.key ?? "admin" };
    if (scenario.timeout) options.timeout = 1000 * scenario.timeout;
    if ("retries" in scenario) options.retries = scenario.retries;
    const client = new llmemb.Client(scenario.script ? scripted : service, options);
    if (scenario.script) {
      await fetch(`${scripted}/script`, { method: "PUT", body: JSON.stringify(scenario.script) });
    }
    const began = performance.now();
    for (const step of scenario.steps) await play(client, step);
    if (scenario.script) {
      const { asked } = await (await fetch(`${scripted}/script`)).json();
      assert.equal(asked, scenario.asked);
      assert.ok(performance.now() - began >= 1000 * (scenario.seconds_at_least ?? 0));
    }
  });
}

test("vectors are the numbers that the service gives", async () => {
  const items = [{ title: "Heat" }];
  const client = new llmemb.Client(service, { key: "read" });
  const { data } = await client.embed({ items });
  const response = await fetch(`${service}/items/embed`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: "Bearer read" },
    body: JSON.stringify({ items: [{ attributes: items[0] }] }),
  });
  const plain = (await response.json()).data[0].embedding;
  assert.deepEqual(data[0].embedding, Float32Array.from(plain));
});
