import { type Admin, type Config, type Id, Producer, type Queue } from 'pg-sluice';

export class EmailService {
  private constructor(private readonly producer: Producer) {}

  static async create(admin: Admin, queue: Queue, config: Config): Promise<EmailService> {
    const producer = await Producer.create({
      pool: admin.pool,
      queue,
      hostname: 'email-service',
      port: 3000,
      config,
    });

    return new EmailService(producer);
  }

  async sendWelcome(userId: number): Promise<Id> {
    const payload = {
      type: 'welcome',
      user_id: userId,
    };
    const msg = await this.producer.enqueue(payload);
    return msg.id;
  }

  async sendBatch(userIds: readonly number[]): Promise<Id[]> {
    const payloads = userIds.map((id) => ({ type: 'welcome', user_id: id }));

    const messages = await this.producer.batchEnqueue(payloads);
    return messages.map((m) => m.id);
  }

  // What goes out of use tells the database so; any number of tasks may share the service until then.
  async close(): Promise<void> {
    await this.producer.close();
  }
}
