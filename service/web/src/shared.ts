// What the pages have in common: the sequence that is built, and the item that is typed.

import type { Attributes, ItemAnswer } from "./api";
import { signal } from "./signal";

/** An entry of the sequence: an item of the catalogue, or one that is only typed. */
export type SequenceEntry = { id: string; title: string } | { attributes: Attributes; title: string };

export const sequence = signal<SequenceEntry[]>([]);

/** The item of the Item page, as rows of name and value. */
export const typed = signal<[string, string][]>([]);

/** A count that grows when the catalogue was changed here. */
export const catalogueChanged = signal(0);

/** Return what an item is called: a title or a name, or its first short text. */
export function titleOf(attributes: Attributes, otherwise = "untitled"): string {
  for (const name of ["title", "name", "headline"]) {
    const found = Object.keys(attributes).find((one) => one.toLowerCase() === name);
    if (found && typeof attributes[found] === "string") return attributes[found];
  }
  const text = Object.values(attributes).find((one) => typeof one === "string" && one.length < 120);
  return typeof text === "string" ? text : otherwise;
}

/** Return the attributes that were typed: JSON where it is a number, list, object or boolean; text otherwise. */
export function attributesOf(rows: [string, string][]): Attributes {
  const found: Attributes = {};
  for (const [name, text] of rows) {
    if (name.trim() && text.trim()) found[name.trim()] = valueOf(text.trim());
  }
  return found;
}

function valueOf(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return value === null ? text : value;
  } catch {
    return text;
  }
}

/** Return attributes as they are typed. */
export function rowsOf(attributes: Attributes): [string, string][] {
  return Object.entries(attributes).map(([name, value]) => [
    name,
    typeof value === "string" ? value : JSON.stringify(value),
  ]);
}

/** Return the wire form of the sequence. */
export function entries(of: SequenceEntry[]): (string | Attributes)[] {
  return of.map((one) => ("id" in one ? one.id : one.attributes));
}

/** Put an item of the catalogue at the end of the sequence. */
export function append(item: Pick<ItemAnswer, "id" | "attributes">): void {
  const title = titleOf(item.attributes, item.id);
  sequence.value = [...sequence.value, { id: item.id, title }];
}
