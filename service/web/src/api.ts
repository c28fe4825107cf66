// What the playground asks the service that serves it.

import { signal } from "./signal";
import { Client, UnauthorizedError } from "../../../clients/typescript/src/index";
import type { components } from "../../../clients/typescript/src/schema";

export { floats } from "../../../clients/typescript/src/floats";
export * from "../../../clients/typescript/src/index";

type Schemas = components["schemas"];
export type MapAnswer = Schemas["MapAnswer"];
export type Manifest = Schemas["Manifest"];
export type SimilarItem = Schemas["SimilarItem"];
export type Recommended = Schemas["RecommendedItem"];

/** The API key that was typed; kept for as long as the tab is open. */
export const key = signal(sessionStorage.getItem("key") ?? "");

const base = new URL(".", document.baseURI).href.replace(/\/$/, "");

/** The client, with the key of now. */
export function client(): Client {
  return new Client(base, { retries: 1, ...(key.value ? { key: key.value } : {}) });
}

/** An answer that the clients have no method for. */
export async function get(path: string): Promise<Response> {
  const headers = key.value ? { Authorization: `Bearer ${key.value}` } : undefined;
  const response = await fetch(base + path, headers ? { headers } : {});
  if (response.status === 401) throw new UnauthorizedError(401, "an API key is needed", [], null);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail ?? response.statusText);
  return response;
}
