// What an access file says of somebody, as the words of its table: pure.
import { count, line } from "./format.js";

/** The owner's name for somebody, or "": unnamed people go by their id. */
export function ownName(person) {
  return person.name === person.node_id ? "" : person.name;
}

export function isLetIn(person, { groups }) {
  const admits = ({ allowed, removed, members }) => allowed && !removed && members.includes(person.node_id);
  return !person.expired && (person.listed || groups.some(admits));
}

/** Until when, or why not now. */
export function untilText(person, access, t) {
  if (person.expired) return t("ended %1", dayText(person.expires));
  if (!isLetIn(person, access)) return t("not let in");
  return person.expires ? dayText(person.expires) : t("no end");
}

/** "1 at once · 50k tokens/day", or nothing where all is inherited. */
export function limitsText({ running, queued, requests_per_minute, tokens_per_day }, t) {
  const parts = [
    running !== null && t("%1 at once", running),
    queued !== null && t("%1 waiting", queued),
    requests_per_minute !== null && t("%1 a minute", count(requests_per_minute)),
    tokens_per_day !== null && t("%1 tokens/day", tokensText(tokens_per_day)),
  ];
  // A line breaks between them only.
  return line(parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0")));
}

export function limitLabel(name, t) {
  return {
    running: t("Requests at once"), queued: t("Waiting requests"),
    requests_per_minute: t("Requests a minute"), tokens_per_day: t("Tokens a day"),
  }[name];
}

/** The kernel's reason without the keys that lead to the value: beside the value, these are known. */
export function withoutKeys(sentence) {
  return sentence.replace(/^(compute|groups|node_groups|nodes)(\..*?)?: /, "");
}

/** 50000 -> "50k" */
function tokensText(tokens) {
  return tokens && tokens % 1000 === 0 ? `${count(tokens / 1000)}k` : count(tokens);
}

/** `2027-01-31` as `Sun 31 Jan 2027`; what is no date stays as it is. */
function dayText(expires) {
  const when = new Date(expires), date = expires.length === 10;
  if (Number.isNaN(when.getTime())) return expires;
  const year = when.getUTCFullYear() === new Date().getUTCFullYear() ? undefined : "numeric";
  const rest = date ? { timeZone: "UTC" } : { hour: "2-digit", minute: "2-digit" };
  return when.toLocaleString(undefined, { weekday: "short", day: "numeric", month: "short", year, ...rest });
}
