// What the owner changed and has not saved: pure but for the kernel's `preview` and `apply`.

export const LIMITS = ["running", "queued", "requests_per_minute", "tokens_per_day"];
const NO_TERMS = { models: [], limits: Object.fromEntries(LIMITS.map((field) => [field, null])) };

/** The name of what can be changed; a control's slot begins with it and a newline. */
export const targetOf = (kind, id = "") => `${kind}\n${id}`;

/** The access section as the file will be once `edits` are written. What they remove stays, marked `removed`. */
export function withEdits(access, edits) {
  const everyone = { ...access.everyone };
  const groups = new Map(access.groups.map((group) => [group.name, { ...group }]));
  const people = new Map(access.people.map((person) => [person.node_id, { ...person }]));
  let sharing = access.sharing;
  const person = (id) => {
    if (!people.has(id)) people.set(id, newPerson(id));
    return people.get(id);
  };
  for (const { kind, node_id, name, members, limits, remove, ...fields } of edits) {
    if (kind === "sharing") {
      sharing = fields.on;
      continue;
    }
    if (kind === "group" && !groups.has(name)) groups.set(name, { name, allowed: false, members: [], ...NO_TERMS });
    const entry = kind === "everyone" ? everyone : kind === "group" ? groups.get(name) : person(node_id);
    Object.assign(entry, fields, limits && { limits: { ...entry.limits, ...limits } });
    if (remove) entry.removed = true;
    if (kind === "person" && name !== undefined) entry.name = name;
    if (fields.expires !== undefined) entry.expired = isPast(fields.expires);
    if (members) {
      const gone = new Set(members.remove);
      entry.members = [...new Set([...entry.members, ...(members.add ?? [])])].filter((id) => !gone.has(id));
      members.add?.forEach(person);
    }
  }
  for (const group of groups.values()) group.members = group.members.filter((id) => !people.get(id)?.removed);
  for (const each of people.values()) {
    const has = ({ members }) => members.includes(each.node_id);
    each.groups = [...groups.values()].filter(has).map(({ name }) => name);
  }
  return { ...access, sharing, everyone, groups: [...groups.values()], people: [...people.values()] };
}

function newPerson(node_id) {
  return {
    node_id, name: "", listed: false, groups: [], expires: "", expired: false, legacy_ok: false, tokens_today: 0,
    ...NO_TERMS,
  };
}

function isPast(expires) {
  // A date's whole day, in UTC, still counts.
  return expires !== "" && Date.parse(expires) + (expires.length === 10 ? 86_400_000 : 0) <= Date.now();
}

/** What the owner changed and has not saved, as edits on top of whatever the file is by then. */
export class AccessDraft {
  constructor(client, draw) {
    this.client = client;
    this.draw = draw;
    this.clear();
    this.checking = Promise.resolve();
  }

  clear() {
    this.entries = new Map(); // slot -> edit: a control has one slot, so that its last value counts
    this.refused = new Map(); // slot -> {typed, sentence}: a value that the file cannot hold
    this.lines = null; // what would be written, while it is being reviewed,
    this.reviewed = []; // and the edits that come to that
    this.gains = []; // who would get more than before, meant or not
    this.problem = "";
    this.stale = false; // the file has changed under the draft
  }

  get edits() {
    return [...this.entries.values()];
  }

  touches(target) {
    return [...this.entries.keys()].some((slot) => slot.startsWith(`${target}\n`));
  }

  /** Keep a change and ask the kernel whether the file could hold it; whether it could. `saved`: the file has it so. */
  async change(slot, edit, typed = "", saved = false) {
    const before = this.entries.get(slot);
    this.entries.delete(slot);
    if (!saved) this.entries.set(slot, edit);
    this.refused.delete(slot);
    if (saved) return this.recheck();
    this.draw();
    // One after the other: a refused change must not take the next one with it.
    return (this.checking = this.checking.then(async () => {
      const sentence = await this.check();
      if (!sentence) this.problem = "";
      else if (this.entries.get(slot) === edit) {
        this.entries.delete(slot);
        if (before) this.entries.set(slot, before);
        this.refused.set(slot, { typed, sentence });
      }
      this.draw();
      return !sentence;
    }));
  }

  refuse(slot, typed, sentence) {
    this.refused.set(slot, { typed, sentence });
    this.draw();
  }

  /** Take back every change of a target: a person, a group. */
  undo(target) {
    this.forget((slot) => slot.startsWith(`${target}\n`));
    return this.recheck();
  }

  forget(which) {
    for (const map of [this.entries, this.refused]) {
      for (const slot of [...map.keys()].filter(which)) map.delete(slot);
    }
  }

  async recheck() {
    if (!this.entries.size) [this.lines, this.problem, this.stale] = [null, "", false];
    this.draw();
    if (this.entries.size) this.problem = await this.check();
    this.draw();
    return !this.problem;
  }

  /** The reason why the draft cannot be written, or nothing; keeps the reviewed lines true. */
  async check() {
    const { edits } = this;
    try {
      const { lines, gains } = await this.client.call("preview", { edits });
      this.gains = gains ?? [];
      if (this.lines) [this.lines, this.reviewed] = [lines, edits];
      return "";
    } catch (error) {
      return error.message;
    }
  }

  async review() {
    this.lines = [];
    this.stale = false;
    if (!(await this.recheck())) this.lines = null;
    this.draw();
  }

  /** Write what was reviewed; a later change, made by the very click on Save, stays in the draft. */
  async save() {
    try {
      this.saving = true; // the file changes by our own hand now
      const { reviewed } = this;
      await this.client.call("apply", { edits: reviewed });
      const later = [...this.entries].filter(([, edit]) => !reviewed.includes(edit));
      this.clear();
      this.entries = new Map(later);
      return true;
    } catch (error) {
      this.problem = error.message;
      return false;
    } finally {
      this.saving = false;
    }
  }
}

/** Whether the file has these very values, so that nothing has to be written. */
export function isSaved(entry, value) {
  const same = (one, two) => JSON.stringify(one) === JSON.stringify(two);
  const limitsSame = (limits) => Object.entries(limits).every(([field, limit]) => entry.limits[field] === limit);
  return Boolean(entry) && Object.entries(value).every(([key, now]) =>
    key === "limits" ? limitsSame(now) : same(entry[key], now));
}
