/** What can go wrong, as classes: catch `LLMEmbClientError` for all of it. */

/** Any failure of a call. */
export class LLMEmbClientError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The service was not reached, or broke off, as often as it was tried. */
export class ConnectionFailedError extends LLMEmbClientError {}

/** The service did not answer in time. */
export class TimedOutError extends ConnectionFailedError {}

/** What is wrong with one field of a request. */
export interface FieldProblem {
  field: string;
  reason: string;
}

/** The service answered with an error (RFC 9457). */
export class AnsweredError extends LLMEmbClientError {
  constructor(
    /** Of HTTP. */
    readonly status: number,
    /** What went wrong, in a sentence. */
    readonly detail: string,
    /** The fields to blame, where there are any. */
    readonly errors: FieldProblem[],
    /** To find the request in the service's log. */
    readonly requestId: string | null,
  ) {
    super(`${status}: ${detail}`);
  }
}

/** No API key, or one that is not known (401). */
export class UnauthorizedError extends AnsweredError {}

/** The API key may not do this (403). */
export class ForbiddenError extends AnsweredError {}

/** There is no such item (404). */
export class NotFoundError extends AnsweredError {}

/** It is not done, and the service goes on as before (409). */
export class RefusedError extends AnsweredError {}

/** The item has another version than was expected, or is there already (412). */
export class ConflictError extends AnsweredError {}

/** The request cannot be used; `errors` names the fields (400, 413, 422). */
export class InvalidRequestError extends AnsweredError {}

/** Too much work was waiting, as often as it was tried (429). */
export class OverloadedError extends AnsweredError {}

/** The service was not ready, as often as it was tried (502, 503, 504). */
export class UnavailableError extends AnsweredError {}

const BY_STATUS: Record<number, typeof AnsweredError> = {
  400: InvalidRequestError,
  401: UnauthorizedError,
  403: ForbiddenError,
  404: NotFoundError,
  409: RefusedError,
  412: ConflictError,
  413: InvalidRequestError,
  422: InvalidRequestError,
  429: OverloadedError,
  502: UnavailableError,
  503: UnavailableError,
  504: UnavailableError,
};

/** The error that a response tells of. */
export async function answered(response: Response): Promise<AnsweredError> {
  // What stands between the service and us may answer anything.
  const body = await response.text().catch(() => "");
  let problem: { detail?: unknown; errors?: unknown } = {};
  try {
    problem = JSON.parse(body) ?? {};
  } catch {}
  const detail =
    typeof problem.detail === "string"
      ? problem.detail
      : response.statusText || "an error without a reason";
  const errors = Array.isArray(problem.errors) ? (problem.errors as FieldProblem[]) : [];
  const kind = BY_STATUS[response.status] ?? AnsweredError;
  return new kind(response.status, detail, errors, response.headers.get("x-request-id"));
}
