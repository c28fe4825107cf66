// Pieces that several pages show.

import type { ComponentChildren } from "preact";
import { useId, useState } from "preact/hooks";

import { AnsweredError, type Attributes, client, type ItemAnswer, key, UnauthorizedError } from "./api";
import { titleOf, typed } from "./shared";
import { useAsked, useSignal } from "./signal";

const KINDS = {
  head: "among the fifth used most in training",
  tail: "seldom used in training",
  cold: "never used in training",
};

/** Whether an item is of the head, of the tail, or cold; and whether it is new. */
export function Badges({ item }: { item: Pick<ItemAnswer, "kind" | "updated"> }) {
  return (
    <>
      <span class={`badge ${item.kind}`} title={KINDS[item.kind]}>
        {item.kind}
      </span>
      {item.updated !== null && (
        <span class="badge new" title={`put ${new Date(1000 * item.updated).toLocaleString()}`}>
          new
        </span>
      )}
    </>
  );
}

/** An item's title, and in small what else is known of it. */
export function ItemText({ id, attributes }: { id: string; attributes: Attributes }) {
  const title = titleOf(attributes, id);
  const others = Object.entries(attributes)
    .filter(([, value]) => value !== title)
    .map(([name, value]) => `${name}: ${Array.isArray(value) ? value.flat().join(", ") : text(value)}`);
  return (
    <span class="item-text">
      <span class="title">{title}</span>
      <span class="others" title={others.join("\n")}>
        {others.join(" · ") || id}
      </span>
    </span>
  );
}

function text(value: unknown): string {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** What went wrong, in words; where a key is missing, a field to give it. */
export function Problem({ error }: { error: unknown }) {
  const [given, give] = useState("");
  const label = useId();
  if (!error) return null;
  if (error instanceof UnauthorizedError) {
    const submit = (event: Event) => {
      event.preventDefault();
      sessionStorage.setItem("key", given);
      key.value = given;
    };
    return (
      <form class="problem" onSubmit={submit}>
        <label for={label}>
          <span role="alert">This service asks for an API key.</span>
        </label>
        <input
          id={label}
          type="password"
          autocomplete="off"
          value={given}
          onInput={(event) => give(event.currentTarget.value)}
        />
        <button>Use it</button>
      </form>
    );
  }
  const said = error instanceof AnsweredError ? error.detail : String((error as Error).message ?? error);
  return (
    <p class="problem" role="alert">
      {said}
    </p>
  );
}

/** A field that finds items by what they are called, and a button for each. */
export function ItemSearch(props: {
  label: string;
  action: string;
  onChoose: (item: ItemAnswer) => void;
  limit?: number;
}) {
  const [text, setText] = useState("");
  const withKey = useSignal(key);
  const label = useId();
  const found = useAsked(
    () =>
      text.trim()
        ? client().findItems({ text: text.trim(), limit: props.limit ?? 12 })
        : mostUsed(props.limit ?? 12),
    [text, withKey],
    150,
  );
  return (
    <div class="search">
      <label for={label}>{props.label}</label>
      <input
        id={label}
        type="search"
        placeholder="title, author, id …"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <Problem error={found.error} />
      <ul class="items" aria-busy={found.busy}>
        {found.answer?.map((item) => (
          <li key={item.id}>
            <button class="row" onClick={() => props.onChoose(item)} title={props.action}>
              <ItemText id={item.id} attributes={item.attributes} />
              <Badges item={item} />
              <span class="visually-hidden">{props.action}</span>
            </button>
          </li>
        ))}
      </ul>
      {found.answer?.length === 0 && <p class="quiet">No item is called that.</p>}
    </div>
  );
}

/** The items used most in training. */
export async function mostUsed(limit: number): Promise<ItemAnswer[]> {
  const { items } = await client().recommend({ sequence: [], k: limit, details: true });
  return items.flatMap((one) => (one.item ? [one.item] : []));
}

/** The typed item: rows of attribute names and values. */
export function AttributesEditor() {
  const rows = useSignal(typed);
  const change = (place: number, column: 0 | 1, to: string) => {
    typed.value = typed.value.map((row, i) =>
      i === place ? (column ? [row[0], to] : [to, row[1]]) : row,
    );
  };
  return (
    <div class="attributes">
      {rows.map(([name, value], i) => (
        <div class="attribute" key={i}>
          <input
            aria-label={`Name of attribute ${i + 1}`}
            placeholder="attribute"
            value={name}
            onInput={(event) => change(i, 0, event.currentTarget.value)}
          />
          <input
            aria-label={`Value of ${name || `attribute ${i + 1}`}`}
            placeholder='text, 1995 or ["a", "b"]'
            value={value}
            onInput={(event) => change(i, 1, event.currentTarget.value)}
          />
          <button
            class="icon"
            aria-label={`Remove ${name || `attribute ${i + 1}`}`}
            onClick={() => (typed.value = typed.value.filter((_, other) => other !== i))}
          >
            ×
          </button>
        </div>
      ))}
      <button onClick={() => (typed.value = [...typed.value, ["", ""]])}>Add an attribute</button>
    </div>
  );
}

/** A slider with its name and value. */
export function Slider(props: {
  label: string;
  hint: string;
  max: number;
  step: number;
  value: number;
  onChange: (value: number) => void;
}) {
  const label = useId();
  return (
    <div class="slider" title={props.hint}>
      <label for={label}>
        {props.label} <output>{props.value}</output>
      </label>
      <input
        id={label}
        type="range"
        min={0}
        max={props.max}
        step={props.step}
        value={props.value}
        onInput={(event) => props.onChange(event.currentTarget.valueAsNumber)}
      />
    </div>
  );
}

/** A part of a page with a heading. */
export function Panel(props: { title: string; children: ComponentChildren; class?: string }) {
  const label = useId();
  return (
    <section class={`panel ${props.class ?? ""}`} aria-labelledby={label}>
      <h2 id={label}>{props.title}</h2>
      {props.children}
    </section>
  );
}

/** Names and values; `large` where the values are what counts. */
export function Facts({ facts, large }: { facts: [string, string][]; large?: boolean }) {
  return (
    <dl class={large ? "facts" : ""}>
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
