// Type an item's attributes: what the LLM reads of it, what is like it, and how it is put into the catalogue.

import { useId, useState } from "preact/hooks";

import { client, type ItemAnswer, key } from "./api";
import { AttributesEditor, ItemSearch, ItemText, Panel, Problem } from "./parts";
import { append, attributesOf, catalogueChanged, rowsOf, titleOf, typed } from "./shared";
import { useAsked, useSignal } from "./signal";

export function Item() {
  const [id, setId] = useState("");
  const load = (item: ItemAnswer) => {
    setId(item.id);
    typed.value = rowsOf(item.attributes);
  };
  return (
    <div class="columns three">
      <Panel title="Start from an item">
        <ItemSearch label="Find an item" action="Edit its attributes" onChoose={load} />
      </Panel>
      <div class="stack">
        <Panel title="Attributes">
          <AttributesEditor />
        </Panel>
        <PutItem id={id} onId={setId} />
      </div>
      <Reading />
    </div>
  );
}

function Reading() {
  const attributes = attributesOf(useSignal(typed));
  const withKey = useSignal(key);
  const changed = useSignal(catalogueChanged);
  const inputs = [JSON.stringify(attributes), withKey, changed];
  const any = Object.keys(attributes).length > 0;
  const embedded = useAsked(
    () => (any ? client().embed({ items: [attributes], prompt: true }) : null),
    inputs,
    300,
  );
  const similar = useAsked(() => (any ? client().similar({ attributes, k: 12 }) : null), inputs, 300);
  const one = embedded.answer?.data[0];
  return (
    <div class="stack">
      <Panel title="What the LLM reads">
        <Problem error={embedded.error} />
        {!any && <p class="quiet">Type an attribute, or start from an item.</p>}
        {one && (
          <>
            <p class="prompt" data-testid="prompt">
              {one.prompt}
            </p>
            <p class="quiet">
              {one.tokens} tokens{one.truncated && ", cut at the end"} · {embedded.took?.toFixed(0)} ms ·{" "}
              {one.cached ? "from the cache" : "computed"} · {embedded.answer?.dimensions} dimensions
            </p>
          </>
        )}
      </Panel>
      <Panel title="Nearest items">
        <Problem error={similar.error} />
        <ol class="items" aria-busy={similar.busy}>
          {similar.answer?.items.map((item) => (
            <li key={item.id}>
              <ItemText id={item.id} attributes={item.attributes} />
              <span class="number">{item.score.toFixed(3)}</span>
            </li>
          ))}
        </ol>
      </Panel>
    </div>
  );
}

function PutItem(props: { id: string; onId: (id: string) => void }) {
  const attributes = attributesOf(useSignal(typed));
  const [said, say] = useState("");
  const [error, fail] = useState<unknown>();
  const label = useId();
  const change = async (asked: () => Promise<string>) => {
    say("");
    fail(undefined);
    try {
      say(await asked());
      catalogueChanged.value += 1;
    } catch (caught) {
      fail(caught);
    }
  };
  const put = async () => {
    const { outcome, version } = await client().putItem({ itemId: props.id, attributes });
    if (outcome === "same") return "The catalogue has it like that already.";
    return `${outcome === "created" ? "Added" : "Changed"}: it can be recommended now (version ${version}).`;
  };
  const remove = async () => {
    await client().deleteItem({ itemId: props.id });
    return "Deleted: it is not recommended any more.";
  };
  return (
    <Panel title="The live catalogue">
      <label for={label}>Id</label>
      <input
        id={label}
        value={props.id}
        placeholder="any id, for example ronin-1998"
        onInput={(event) => props.onId(event.currentTarget.value)}
      />
      <div class="buttons">
        <button class="primary" disabled={!props.id} onClick={() => change(put)}>
          Put into the catalogue
        </button>
        <button disabled={!props.id} onClick={() => change(remove)}>
          Delete
        </button>
        <button
          disabled={!props.id}
          onClick={() => {
            append({ id: props.id, attributes });
            say(`${titleOf(attributes, props.id)} was added to the sequence.`);
          }}
        >
          Add to the sequence
        </button>
      </div>
      <p role="status">{said}</p>
      <Problem error={error} />
    </Panel>
  );
}
